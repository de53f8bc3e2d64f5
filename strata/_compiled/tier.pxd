cimport cython

from strata._compiled.claims cimport Claims as Claimed
from strata._compiled.hits cimport L1Entry as Entry
from strata._compiled.store cimport MemStore as Kept
from strata._compiled.versions cimport VersionClock as Versions


cdef class L1Tier:
    cdef object __weakref__
    cdef public Kept store, absences
    cdef public object _marks, trust, own, holds, _evicted
    cdef public dict entries
    cdef public Claimed claims
    cdef public Versions _versions

    cpdef write(self, key, value, version, double began, claim=*, life=*)
    cdef _tags(self, value)
    cdef _fill(self, Kept store, claim, key, value, version, bint pending, double loaded, tags)
    @cython.locals(entry=Entry)
    cdef _outdate(self, claim, key, version)
    cdef _present(self, key)
    @cython.locals(entry=Entry)
    cdef bint _newer(self, key, version, bint pending)
    cdef bint _outdated(self, Entry entry, version)
    cdef _report(self, evicted)
