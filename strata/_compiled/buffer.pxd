from strata._compiled.gate cimport Gate as Gated
from strata._compiled.queues cimport Queues as Queued


cdef class DirtyBuffer:
    cdef object __weakref__
    cdef public object limits, _clock, _owner, _lock, _left, tallies
    cdef public Gated gate
    cdef public Queued _queues
    cdef public bint _torn, _due
    cdef public dict _slots, _met
    cdef public double since, sent_at
    cdef public long long fresh

    cdef _begin(self)
    cdef _tell(self)
    cdef _mend(self)
    cdef _stamp(self, schema, key)
    cdef _restamp(self, slot)
    cdef _replace(self, slot, item)
    cdef _enqueue(self, slot)
    cdef _remove(self, slot)
    cdef bint _make_room(self)
    cpdef _put(self, schema, key, key_text, item, bint newest=*)
