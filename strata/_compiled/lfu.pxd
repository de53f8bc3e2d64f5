cimport cython

from strata._compiled.hits cimport L1Entry as Entry


cdef class Lfu:
    cdef public object _probation, _established, _remains, _ghosts
    cdef public Py_ssize_t _share

    @cython.locals(victim=Entry, first=Entry)
    cpdef swap(self, Entry entry, double now)
    @cython.locals(entry=Entry)
    cdef Entry _search(self, double now)
    cdef bint _stays(self, Entry entry, bint proving)
