cimport cython

from strata._compiled.hits cimport L1Entry as Entry


cdef class Lru:
    cdef public object _fresh, _remains
    cdef public list _settled
    cdef public long long _number

    @cython.locals(victim=Entry, first=Entry)
    cpdef swap(self, Entry entry, double now)
    @cython.locals(entry=Entry, oldest=Entry)
    cdef Entry _search(self, double now)
    @cython.locals(first=Entry)
    cdef Entry _older(self, Entry entry)
    @cython.locals(entry=Entry)
    cdef Entry _pop(self, double before)
    cdef _settle(self, Entry entry)
