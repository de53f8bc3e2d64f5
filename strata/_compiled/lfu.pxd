cimport cython

from strata._compiled.ghosts cimport Ghosts as Remembered
from strata._compiled.hits cimport L1Entry as Entry
from strata._compiled.stamped cimport Stamped as Ordered


cdef class Lfu:
    cdef public object _remains
    cdef public Py_ssize_t _capacity
    cdef public tuple _levels
    cdef public Ordered _new
    cdef public Remembered _ghosts
    cdef public bint _filling
    cdef public long long _votes
    cdef public double _gone_new, _gone_old, _slope, _offset, _lean, _patience
    cdef public list _weighed

    @cython.locals(worth=int)
    cpdef add(self, Entry entry)
    @cython.locals(victim=Entry, first=Entry, worth=int)
    cpdef swap(self, Entry entry, double now)
    cdef _look_again(self)
    cdef _set_lean(self, double lean)
    @cython.locals(order=Ordered)
    cdef _enter(self, Entry entry, int worth)
    @cython.locals(step=double)
    cdef _vote(self, int worth)
    cdef _age(self)
    @cython.locals(entry=Entry, looks=int)
    cdef Entry _search(self, double now)
    @cython.locals(first=Entry)
    cdef Entry _oldest_new(self, double now)
    @cython.locals(
        idlest=Entry, entry=Entry, most=double, runner_up=double, idle=double, weight=double, order=Ordered
    )
    cdef Entry _idlest(self, double now)
    @cython.locals(order=Ordered)
    cdef _raise(self, Entry entry, double now)
    @cython.locals(level=int)
    cdef _bury(self, Entry entry)
