"""The asyncio face: `AsyncDataStore`, over the same engine. Extra `strata[asyncio]`, which is greenlet."""
