cdef class VersionClock:
    cdef object __weakref__
    cdef public object reference, _clock, _lock, _offset, _last, _node
    cdef public double _slept

    cpdef stamp(self)
    cpdef bint plausible(self, version)
    cdef bint _near(self, version)
    cdef _now(self)
    cdef double _sleep(self)
