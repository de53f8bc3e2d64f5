cdef class Ghosts:
    cdef public object _slots
    cdef public Py_ssize_t _size
