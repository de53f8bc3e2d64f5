cimport cython


cdef class Ghosts:
    cdef public object _slots
    cdef public Py_ssize_t _size
    cdef public long long _era

    @cython.locals(mark=cython.longlong)
    cpdef remember(self, key, int worth)
    @cython.locals(mark=cython.longlong, slot=cython.longlong)
    cpdef int recall(self, key)
    @cython.locals(mark=cython.longlong, slot=cython.longlong, size=Py_ssize_t)
    cpdef int swap(self, gone, new)
    @cython.locals(worth=int, eras=int)
    cdef int _worth(self, long long slot)
