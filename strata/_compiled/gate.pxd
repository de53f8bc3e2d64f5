cdef class Gate:
    cdef public object _clock, _until, _by
