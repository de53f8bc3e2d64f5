cimport cython

from strata._compiled.hits cimport L1Entry as Entry


cdef class Stamped:
    cdef public object line, _remains
    cdef public list late
    cdef public long long _number

    @cython.locals(last=Entry)
    cpdef push(self, Entry entry)
    @cython.locals(entry=Entry)
    cpdef Entry first(self)
    cpdef pop(self)
    @cython.locals(entry=Entry)
    cdef bint _in_line(self)
