cdef class Claim:
    cdef object __weakref__
    cdef public object key, life, hub, owner, result, error, stale
    cdef public tuple listed
    cdef public double born
    cdef public bint alive, alone, brief, silent, passed_on, ended, shared
    cdef public dict _waiting


cdef class ManyClaim:
    cdef object __weakref__
    cdef public object keys, life, stamp
    cdef public tuple listed
    cdef public bint brief, silent, alone
    cdef public set voided


cdef class Call(Claim):
    cdef public object since, stop, waits_for, version, overtaken


cdef class Claims:
    cdef object __weakref__
    cdef public object lock
    cdef public dict _claims, _flights, _calls
    cdef public Py_ssize_t _sweep_at

    cpdef void_others(self, key, claim)
    cdef _enter(self, Claim claim)
    cdef _add(self, key, claim)
    cdef _leave(self, key, claim)


cdef list _living(tuple claims)
