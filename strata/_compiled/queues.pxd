cdef class Queues:
    cdef public dict unsent, kept
    cdef public object kept_in

    cpdef sent(self, slot)
    cpdef unkeep(self, slot)
    cpdef remove(self, slot)
