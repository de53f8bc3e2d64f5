# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""An L1 hit in C: the fields that it reads, and the `get` of stores and collections.

It does what the plain `get` does, and relies on the GIL: between the look-up and the stamp no other thread comes in. So
this is not built for free-threaded Python. What is no hit takes the same way as in plain Python.
"""

cimport cython
from cpython.exc cimport PyErr_Clear, PyErr_ExceptionMatches, PyErr_Occurred
from cpython.ref cimport PyObject
from libc.math cimport INFINITY

from strata.model.keys import KEYS

cdef extern from *:
    """
    #include <time.h>

    /* The clock of time.monotonic. Linux keeps its time as of the last tick, rounded down to one, which is read in a
       third of the time; with two ticks added it is not before the true one (unless the kernel's own tick is late). So
       nothing is served beyond its time, and what is used is stamped later than it was queued. */
    #if defined(CLOCK_MONOTONIC_COARSE)
    #  define STRATA_CLOCK CLOCK_MONOTONIC_COARSE
    #elif defined(__APPLE__)
    #  define STRATA_CLOCK CLOCK_UPTIME_RAW
    #else
    #  define STRATA_CLOCK CLOCK_MONOTONIC
    #endif

    static double strata_ahead = 0.0;

    static double strata_seconds(const struct timespec *t) { return (double)t->tv_sec + 1e-9 * (double)t->tv_nsec; }

    static void strata_begin(void) {
    #if defined(CLOCK_MONOTONIC_COARSE)
        struct timespec t;
        if (clock_getres(STRATA_CLOCK, &t) == 0) strata_ahead = 2 * strata_seconds(&t);
    #endif
    }

    static double strata_now(void) {
        struct timespec t;
        clock_gettime(STRATA_CLOCK, &t);
        return strata_seconds(&t) + strata_ahead;
    }
    """
    void strata_begin() noexcept
    double strata_now() noexcept
    PyObject* looked_up "PyDict_GetItemWithError" (object, object) noexcept


strata_begin()


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class L1Entry:
    def __init__(
        self, value, version, bint pending, double expires, double loaded, double used, long long hits=0, key=None,
        double queued=0.0, double ends=INFINITY, bint own=False, long long seen=0, long long count=0,
    ):
        self.value, self.version, self.key = value, version, key
        self.expires, self.loaded, self.used, self.queued, self.ends = expires, loaded, used, queued, ends
        self.hits, self.seen, self.count = hits, seen, count
        self.pending, self.own = pending, own


cdef class TrustFields:
    pass


cdef class HotFields:
    @cython.binding(False)
    def hit(self, id):
        cdef PyObject* entry = served(self, id)
        if entry is not NULL:
            return private(self, entry)
        minded(id)
        return MISS


cdef class StoreFields:
    pass


cdef class HandleFields:
    pass


RAISE = type("Raise", (), {"__repr__": lambda self: "<raise NotFoundError>", "__slots__": ()})()
MISS = type("Miss", (), {"__repr__": lambda self: "MISS", "__slots__": ()})()


cdef bint of_kinds(object id, tuple kinds) noexcept:
    """As the plain `Hot.lookup` looks at an id of several fields."""
    cdef Py_ssize_t place
    if type(id) is not tuple or len(<tuple>id) != len(kinds):
        return False
    for place in range(len(kinds)):
        if type((<tuple>id)[place]) is not kinds[place]:
            return False
    return True


cdef inline PyObject* served(HotFields hot, object id) noexcept:
    """The entry that may be handed out now, stamped, and not owned; NULL where there is none, perhaps with an error."""
    cdef PyObject* found = looked_up(hot.entries, id)
    cdef double now
    if found is NULL or type(<object>found) is not L1Entry:
        return NULL
    if hot.exact is not None and type(id) is not hot.exact:
        return NULL
    if hot.kinds is not None and not of_kinds(id, hot.kinds):
        return NULL
    now = strata_now()
    if now < (<L1Entry>found).expires and now < hot.trust.until:
        (<L1Entry>found).used = now
        (<L1Entry>found).hits += 1
        return found
    return NULL


cdef inline object private(HotFields hot, PyObject* entry):
    """What the caller gets of an entry."""
    if hot.thaw is None:
        return (<L1Entry>entry).value
    return hot.thaw((<L1Entry>entry).value)


cdef int minded(object id) except -1:
    """What a look-up has raised is the caller's where it came from outside: a key of these types has a hash."""
    if not PyErr_Occurred():
        return 0
    if PyErr_ExceptionMatches(TypeError) or PyErr_ExceptionMatches(KeyError):
        PyErr_Clear()  # a schema that is not there, or that has no hash
    elif PyErr_ExceptionMatches(Exception) and type(id) not in KEYS:
        PyErr_Clear()
    else:
        return -1
    return 0


def store_get(StoreFields self, schema, id, *, default=RAISE, force_l2=False, force_l3=False, whole=False):
    cdef PyObject* hot
    cdef PyObject* entry
    if not (force_l2 or force_l3 or whole):
        hot = looked_up(self._hot, schema)
        if hot is not NULL:
            entry = served(<HotFields?>hot, id)
            if entry is not NULL:
                return private(<HotFields>hot, entry)
        minded(id)
    return self._get_slowly(schema, id, default, force_l2, force_l3, whole)


def handle_get(HandleFields self, id, *, default=RAISE, force_l2=False, force_l3=False, whole=False):
    cdef PyObject* entry
    if not (force_l2 or force_l3 or whole):
        entry = served(self._hot, id)
        if entry is not NULL:
            return private(self._hot, entry)
        minded(id)
    return self._store._get_slowly(self.name, id, default, force_l2, force_l3, whole)
