cimport cython

from strata._compiled.hits cimport L1Entry as Entry


cdef class MemStore:
    cdef object __weakref__
    cdef readonly dict entries
    cdef public object tagged, lock, clock
    cdef public long long evictions, expirations
    cdef public bint unattended
    cdef public double _capacity, _ttl, _stay
    cdef public long long _departed
    cdef public object _aging, _policy, _swap, _now, _watch
    cdef public bint _watched

    @cython.locals(entry=Entry, now=double, expires=double, ends=double)
    cpdef list enter(
        self, key, value, version, bint pending, loaded=*, ttl=*, bint own=*, tags=*
    )
    @cython.locals(entry=Entry)
    cpdef live(self, key, double now)
    @cython.locals(entry=Entry)
    cpdef stale(self, key, double now)
    cdef double _leaves(self, Entry entry)
    cdef list _insert(self, Entry entry)
    @cython.locals(victim=Entry)
    cdef list _replace(self, Entry entry, double now)
    cdef list _expired(self, Entry entry)
    cdef _remove(self, Entry entry)


cdef _renew(Entry entry, value, version, bint pending, double expires, double loaded, double now)
