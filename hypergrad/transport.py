"""How a function and its values travel to another process, and how two of them are told apart.

``dumps`` and ``loads`` carry lambdas, closures and autograd's own functions; ``digest`` and ``fingerprint``
give the same text for the same value in every process, which a pickle does not.
"""

import dis
import functools
import inspect
import io
import operator
import pickle
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle
from autograd.extend import primitive
from joblib.hashing import NumpyHasher

loads = pickle.loads

# Every function that autograd's ``primitive`` made runs this one code object.
_PRIMITIVE_CODE = primitive(lambda: None).__code__

_CACHED = type(functools.lru_cache(lambda: None))


def dumps(value: Any) -> bytes:
    """Pickle a value for another process, functions defined in a script or a notebook included.

    Invariant: loads(dumps(f)) is differentiable by autograd where f is.
    Raises what pickling raises (TypeError, PicklingError, ...) for what cannot travel, e.g. a lock or a generator.
    """
    stream = io.BytesIO()
    _Pickler(stream).dump(value)
    return stream.getvalue()


def digest(value: Any, home: str | None = None) -> str:
    """Digest a value to 32 hexadecimal digits: equal values give equal digests, in every process.

    home: name of the module whose functions and classes are compared by what they do. So are functions that no
    import finds (lambdas, closures, a script's own); other functions and classes are compared by name.
    Raises TypeError for values that have no state to compare, e.g. a lock or an open file.
    """
    try:
        return _Digester(home, set()).hash(value)
    except Exception as error:  # hashing runs the value's own code, which raises anything at all
        raise TypeError(f"a {type(value).__name__} cannot be compared between runs: {error}") from error


def fingerprint(fun: Any) -> dict[str, str]:
    """Digest what a function does, part by part: its code, its defaults, and each value that it reads.

    fun: a function, a method, a functools.partial, or an object that is called.
    Returns {part: digest}; parts are phrased for a message that says which of them differ.
    The values are those of its closure, of the globals that it names, and of its object's attributes; functions and
    classes from its own file count with their code, modules and what is imported from elsewhere by name alone.
    Raises TypeError where a value cannot be compared, naming it.
    """
    home = home_of(fun)
    digests = {}
    for part, value in _parts_of(fun).items():
        try:
            digests[part] = digest(value, home)
        except TypeError as error:
            raise TypeError(
                f"{getattr(fun, '__qualname__', fun)}: {part}: {error}; make it inside the function, so that each "
                "call has its own, or go without a record"
            ) from error
    return digests


def home_of(fun: Any) -> str | None:
    """Name the module that a function is from, or the one in a functools.partial."""
    while isinstance(fun, functools.partial):
        fun = fun.func
    return getattr(fun, "__module__", None)


class _Pickler(cloudpickle.CloudPickler):
    """cloudpickle's, but autograd's functions (np.tanh, ...) travel by name, and code with the name of its file.

    By value autograd's would arrive as strangers: it finds a gradient by the identity of the function.  Without the
    file a traceback from another process would not show the lines; recent versions of cloudpickle drop it.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, CodeType):
            make, arguments = self.dispatch_table[CodeType](obj)[:2]
            return _code_from_file, (obj.co_filename, make, *arguments)
        if not _is_primitive(obj):
            return super().reducer_override(obj)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "__main__") == "__main__":
                continue
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is obj:
                    return getattr, (module, name)
        raise pickle.PicklingError(
            f"the autograd primitive {obj.__name__!r} is no module's attribute, so another process has no gradient "
            "for it: define it, and its gradient, at the top of a module that can be imported"
        )


def _code_from_file(filename: str, make: Callable[..., CodeType], *arguments: Any) -> CodeType:
    return make(*arguments).replace(co_filename=filename)


class _Digester(NumpyHasher):
    """joblib's hash, but for functions too, and independent of the order of dicts and sets."""

    def __init__(self, home: str | None, seen: set[int]) -> None:
        super().__init__(hash_name="md5")
        self._home = home
        self._seen = seen

    def save(self, obj: Any) -> None:
        if isinstance(obj, FunctionType):
            obj = self._function(obj)
        elif isinstance(obj, CodeType):
            # No line numbers and file names: moving a function is no change.
            obj = ("code", obj.co_code, obj.co_consts, obj.co_names)
        elif isinstance(obj, functools.partial):  # its own state depends on who has looked at its __dict__
            obj = ("partial", obj.func, obj.args, obj.keywords)
        elif isinstance(obj, MethodType):
            obj = ("method", obj.__func__, obj.__self__)
        elif isinstance(obj, _CACHED) and (obj.__module__ == self._home or not _is_importable(obj)):
            obj = ("cached", obj.__wrapped__)
        elif isinstance(obj, type):
            obj = self._class(obj)
        elif isinstance(obj, ModuleType):
            obj = ("module", obj.__name__)
        elif type(obj) is dict:
            obj = ("dict", [(key, obj[key]) for key in sorted(obj, key=repr)])
        elif type(obj) in (set, frozenset):
            obj = (type(obj).__name__, sorted(obj, key=repr))
        super().save(obj)

    def memoize(self, obj: Any) -> None:
        # Whether two equal constants are one object depends on who compiled them, so these are saved each time.
        if not isinstance(obj, (str, bytes, tuple, complex, self.np.generic)):
            super().memoize(obj)

    def _function(self, fun: FunctionType) -> tuple[Any, ...]:
        if _is_primitive(fun):
            return ("primitive", fun.__name__)
        if id(fun) in self._seen:  # recursive functions
            return ("function again", fun.__qualname__)
        if fun.__module__ != self._home and _is_importable(fun):
            return ("function", fun.__module__, fun.__qualname__)
        self._seen.add(id(fun))
        return ("function", _parts(fun))

    def _class(self, cls: type) -> tuple[Any, ...]:
        name = ("class", cls.__module__, cls.__qualname__)
        if cls.__module__ != self._home or id(cls) in self._seen:
            return name
        self._seen.add(id(cls))
        return (*name, cls.__bases__, _members(cls))


def _members(cls: type) -> dict[str, Any]:
    """The functions that a class defines, and its constants."""
    members = {}
    for name, value in vars(cls).items():
        if isinstance(value, property):
            value = (value.fget, value.fset, value.fdel)
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        # What Python itself adds to a class follows from the rest.
        slot = inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value)
        if isinstance(value, FunctionType) or not (name.startswith("__") or name == "_abc_impl" or slot):
            members[name] = value
    return members


def _parts_of(fun: Any) -> dict[str, Any]:
    if isinstance(fun, functools.partial):
        parts, bound = _parts_of(fun.func), "the arguments bound to it"
        return parts | {bound: (parts.get(bound), fun.args, fun.keywords)}
    if isinstance(fun, MethodType) and isinstance(fun.__func__, FunctionType):
        return _parts(fun.__func__) | _parts_of(fun.__self__)
    if isinstance(fun, FunctionType) and not _is_primitive(fun):
        return _parts(fun)
    if _is_plain(fun):
        attributes = {f"the value of 'self.{name}'": value for name, value in vars(fun).items()}
        return {"the class of its object": type(fun)} | attributes
    return {"itself": fun}


def _is_plain(value: Any) -> bool:
    """Whether the attributes in its __dict__ are all that a pickle has of an object."""
    cls = type(value)
    by_default = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, (type, ModuleType, FunctionType))
        and all(getattr(cls, name, None) is getattr(object, name, None) for name in by_default)
        and not any("__slots__" in vars(base) for base in cls.__mro__)
    )


def _parts(fun: FunctionType) -> dict[str, Any]:
    parts = {"its code": fun.__code__, "its default values": (fun.__defaults__, fun.__kwdefaults__)}
    if hasattr(fun, "__wrapped__"):
        # A decorated function: what the decorator holds (a cache, a counter) changes from call to call.
        return parts | {"the function it wraps": fun.__wrapped__}
    for name in _global_names(fun.__code__):
        if name in fun.__globals__:
            parts[f"the value of {name!r}"] = fun.__globals__[name]
    for name, cell in zip(fun.__code__.co_freevars, fun.__closure__ or (), strict=True):
        try:
            parts[f"the value of {name!r}"] = cell.cell_contents
        except ValueError:  # an empty cell: the name has no value yet
            continue
    return parts


def _global_names(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _is_primitive(value: Any) -> bool:
    return isinstance(value, FunctionType) and value.__code__ is _PRIMITIVE_CODE


def _is_importable(fun: FunctionType) -> bool:
    if fun.__module__ == "__main__":
        return False
    try:
        return operator.attrgetter(fun.__qualname__)(sys.modules[fun.__module__]) is fun
    except (AttributeError, KeyError):
        return False


@functools.lru_cache(maxsize=1)
def load_function(pickled: bytes) -> Any:
    """Unpickle a function once for many items, so that what it remembers (loaded data) serves the next item."""
    return loads(pickled)
