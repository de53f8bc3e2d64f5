cdef class Observed:
    cdef public object _began, _bound, _key, _observers, _operation, _span
