# What the hit path reads and stamps, as C has it; what each is for is said at the plain twins, and in the classes that
# have the methods: `L1Entry` (strata/l1/entry.py), `Trust` (strata/l1/trust.py), `Hot` (strata/engine/hot.py).

cdef class L1Entry:
    cdef public object value, version, key
    cdef public double expires, loaded, used, queued, ends
    cdef public long long hits, seen, count
    cdef public bint pending, own


cdef class TrustFields:
    cdef public double until


cdef class HotFields:
    cdef public dict entries
    cdef public object exact, thaw
    cdef public tuple kinds
    cdef public TrustFields trust


cdef class StoreFields:
    cdef public dict _hot


cdef class HandleFields:
    cdef public HotFields _hot
