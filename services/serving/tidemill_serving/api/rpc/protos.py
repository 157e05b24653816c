"""Message classes from the .proto files beside this one, made when the process starts: nothing generated is kept.

It reads what these files use of proto3: messages, nested ones, enums, maps, oneofs, services.
"""

import re
from collections.abc import Iterator  # noqa: TC003 - annotations of locals are looked at by mypy alone
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]  # no stubs

_TOKEN = re.compile(r'//[^\n]*|"[^"]*"|[\w.]+|[{}()<>=;,]')
_FIELD: Any = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: _FIELD.Type.Value(f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


class Messages:
    """The classes of one file by their names within its package; nested ones as `Outer.Inner`."""

    def __init__(self, name: str) -> None:
        text = files(__package__).joinpath(name).read_text("utf-8")
        self.file = _Reader(name, text).file
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self.file)
        self.package: str = self.file.package
        self._pool = pool

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a class that is made here
        """The class of a message."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self.package}.{name}"))

    def enum(self, name: str) -> dict[str, int]:
        """Names to numbers."""
        found = self._pool.FindEnumTypeByName(f"{self.package}.{name}")
        return {value.name: value.number for value in found.values}


class _Reader:
    """Reads one file."""

    def __init__(self, name: str, text: str) -> None:
        self._tokens: Iterator[str] = (word for word in _TOKEN.findall(text) if not word.startswith("//"))
        self.file: Any = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
        self._enums = set(re.findall(r"\benum (\w+)", text))
        while word := next(self._tokens, ""):
            self._top(word)
        for message in self.file.message_type:
            self._resolve(message, [message.name])

    def _top(self, word: str) -> None:
        match word:
            case "package":
                self.file.package = next(self._tokens)
            case "message":
                self._message(self.file.message_type.add())
            case "enum":
                self._enum(self.file.enum_type.add())
            case "service":
                self._service(self.file.service.add())
                return
            case _:
                pass
        if word in {"package", "syntax"}:
            self._until(";")

    def _until(self, end: str) -> list[str]:
        found = []
        for word in self._tokens:
            if word == end:
                break
            found.append(word)
        return found

    def _message(self, message: Any) -> None:  # noqa: ANN401 - protobuf ships no types
        message.name = next(self._tokens)
        next(self._tokens)
        oneof = False
        for word in self._tokens:
            match word:
                case "}" if not oneof:
                    return
                case "}":
                    oneof = False
                case "message":
                    self._message(message.nested_type.add())
                case "enum":
                    self._enum(message.enum_type.add())
                case "oneof":
                    message.oneof_decl.add(name=next(self._tokens))
                    next(self._tokens)
                    oneof = True
                case _:
                    self._field(message, [word, *self._until(";")], oneof=oneof)

    def _field(self, message: Any, words: list[str], *, oneof: bool) -> None:  # noqa: ANN401 - see above
        field = message.field.add(label=_FIELD.LABEL_OPTIONAL)
        if words[0] == "map":
            _, _, key, _, value, _, *words = words
            words = [_entry(message, words[0], key, value), *words]
            field.label = _FIELD.LABEL_REPEATED
        elif words[0] == "repeated":
            words = words[1:]
            field.label = _FIELD.LABEL_REPEATED
        kind, field.name, _, number = words
        field.number = int(number)
        _type(field, kind)
        if oneof:
            field.oneof_index = len(message.oneof_decl) - 1

    def _enum(self, enum: Any) -> None:  # noqa: ANN401 - see above
        enum.name = next(self._tokens)
        next(self._tokens)
        for word in self._tokens:
            if word == "}":
                return
            enum.value.add(name=word, number=int(self._until(";")[1]))

    def _service(self, service: Any) -> None:  # noqa: ANN401 - see above
        service.name = next(self._tokens)
        next(self._tokens)
        for word in self._tokens:
            if word == "}":
                return
            words = self._until("}")
            middle = words.index("returns")
            asked, answered = words[:middle], words[middle:]
            name, *_, taken, _ = asked
            *_, given, _, _ = answered
            service.method.add(
                name=name, input_type=self._full(taken), output_type=self._full(given),
                client_streaming="stream" in asked, server_streaming="stream" in answered,
            )  # fmt: skip

    def _full(self, name: str) -> str:
        return f".{self.file.package}.{name}"

    def _resolve(self, message: Any, path: list[str]) -> None:  # noqa: ANN401 - see above
        """Give the fields of other messages and enums the whole names of these; inner ones come first."""
        inner = {found.name for found in (*message.nested_type, *message.enum_type)}
        for field in message.field:
            if field.type_name:
                field.type = _FIELD.TYPE_ENUM if field.type_name in self._enums else _FIELD.TYPE_MESSAGE
                place = [*path, field.type_name] if field.type_name in inner else [field.type_name]
                field.type_name = self._full(".".join(place))
        for nested in message.nested_type:
            self._resolve(nested, [*path, nested.name])


def _type(field: Any, kind: str) -> None:  # noqa: ANN401 - see above
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = kind


def _entry(message: Any, name: str, key: str, value: str) -> str:  # noqa: ANN401 - see above
    """The message that a map's pairs are; its name."""
    entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
    entry.options.map_entry = True
    for number, (each, kind) in enumerate((("key", key), ("value", value)), 1):
        _type(entry.field.add(name=each, number=number, label=_FIELD.LABEL_OPTIONAL), kind)
    return str(entry.name)
