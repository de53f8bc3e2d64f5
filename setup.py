"""Builds the compiled part where it can; everything else about the package is in pyproject.toml.

It is left out, and Strata runs in plain Python, where there is no C compiler, or no Cython (as with
--no-build-isolation), on PyPy, on a free-threaded build, whose GIL a module that relies on it would turn on again, and
where STRATA_PURE=1 is set.
"""

import os
import runpy
import sys
import sysconfig

from setuptools import Extension, setup

PARTS = runpy.run_path("strata/_compiled/parts.py")["PARTS"]
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # what is typed in C stands in the .pxd beside hits.pyx
    "auto_pickle": False,
}


def parts():
    pure = os.environ.get("STRATA_PURE", "0") not in ("", "0")
    if pure or sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("there is no Cython: Strata is built in plain Python", file=sys.stderr)
        return []
    extensions = [
        Extension(f"strata._compiled.{name}", [path], extra_compile_args=["-O2", "-g0"]) for name, path in PARTS.items()
    ]
    # By force: it does not look at the .pxd of a source that stands elsewhere.
    made = cythonize(extensions, build_dir="build/cython", force=True, compiler_directives=DIRECTIVES, quiet=True)
    for extension in made:
        extension.optional = True  # which `cythonize` would not take along
    return made


setup(ext_modules=parts())
