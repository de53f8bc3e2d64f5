cimport cython

from strata._compiled.hits cimport L1Entry as Entry


cdef class Fifo:
    cdef public object _queue, _remains

    @cython.locals(oldest=Entry)
    cpdef swap(self, Entry entry, double now)
