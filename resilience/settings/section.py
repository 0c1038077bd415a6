"""What every part of the settings shares: frozen, no unknown keys, and all that is wrong told at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator

from resilience.errors import ConfigurationError
from resilience.settings.complaints import complaint, finished, in_sentences, says, shown, told, unknown_key

if TYPE_CHECKING:
    from pydantic import ModelWrapValidatorHandler
    from pydantic_core import InitErrorDetails

_Number = Field(strict=True, allow_inf_nan=False)
Seconds = Annotated[float, _Number, Field(gt=0), WrapValidator(says("a number of seconds above 0"))]
SecondsOrZero = Annotated[float, _Number, Field(ge=0), WrapValidator(says("a number of seconds, 0 or more"))]
Share = Annotated[float, _Number, Field(gt=0, le=1), WrapValidator(says("a number above 0 and at most 1"))]
Jitter = Annotated[float, _Number, Field(ge=0, lt=1), WrapValidator(says("a number, 0 or more and below 1"))]
Factor = Annotated[float, _Number, Field(ge=1), WrapValidator(says("a number, 1 or more"))]
Weight = Annotated[float, _Number, Field(gt=0), WrapValidator(says("a number above 0"))]
Count = Annotated[int, Field(strict=True, ge=1), WrapValidator(says("a whole number, 1 or more"))]
CountOrZero = Annotated[int, Field(strict=True, ge=0), WrapValidator(says("a whole number, 0 or more"))]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1, pattern=r"\S"), WrapValidator(says("a text that is not empty"))]


class Section(BaseModel):
    """A part of the settings: frozen, no unknown keys, and all that is wrong with it told at once."""

    # Built at the first use: the import of the package would pay for all of them.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    def __init__(self, /, **values: Any) -> None:
        message = None
        try:
            super().__init__(**values)
        except ValidationError as error:
            message = told(error)
        if message is not None:  # outside the except clause: pydantic's error holds the values, keys included
            raise ConfigurationError(message)

    # Pydantic's own mark (RootModel carries it too): nested sections are validated without passing through
    # here, so that their errors reach the outermost one with their path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="wrap")
    @classmethod
    def _tell_all(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(given, cls):
            return validate(given)
        data = cls._normal(given)
        if not isinstance(data, dict):
            raise finished(cls._not_a_mapping(data))
        accepted, wrong = cls._sort_keys(data)
        section: Self | None = None
        try:
            section = validate(accepted)
        except ValidationError as error:
            wrong += in_sentences(error, cls._nullable())
        else:
            wrong += cls._settle(section)
        if wrong or section is None:
            raise ValidationError.from_exception_data(cls.__name__, wrong, hide_input=True)
        return section

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset(name for name, field in cls.model_fields.items() if NoneType in get_args(field.annotation))

    @classmethod
    def _normal(cls, given: Any) -> Any:
        """Bring the short forms of a section into its long form."""
        return dict(given) if isinstance(given, Mapping) else given

    @classmethod
    def _not_a_mapping(cls, given: Any) -> str:
        # A text where a mapping belongs is often a key in the wrong line, so it is not shown.
        kind = "a text" if isinstance(given, str) else shown(given)
        return f"{kind} is not allowed; allowed: a mapping with the keys {', '.join(sorted(cls.model_fields))}"

    @classmethod
    def _sort_keys(cls, data: dict[Any, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
        """The keys we know, and a complaint for each other one."""
        accepted = {key: value for key, value in data.items() if key in cls.model_fields}
        wrong = [complaint(unknown_key(key, cls.model_fields), str(key)) for key in data if key not in cls.model_fields]
        return accepted, wrong

    def _settle(self) -> list[InitErrorDetails]:
        """Let defaults give way to what was said; tell what contradicts. Called before anyone sees it."""
        return []

    def _fill(self, **values: Any) -> None:
        # Frozen for everyone else. What is filled in does not count as said (`model_fields_set`).
        self.__dict__.update(values)

    def _order(self, low: str, high: str) -> list[InitErrorDetails]:
        """Hold ``low`` <= ``high``: the one that was not said gives way."""
        small, large = getattr(self, low), getattr(self, high)
        if small <= large:
            return []
        if high not in self.model_fields_set:
            self._fill(**{high: small})
        elif low not in self.model_fields_set:
            self._fill(**{low: large})
        else:
            return [complaint(f"{small:g} is more than {high} ({large:g}); allowed: at most {high}", low)]
        return []


AnySection = TypeVar("AnySection", bound=Section)


def given_over(base: AnySection, over: AnySection) -> AnySection:
    """A section of the keys given in ``over``, then those given in ``base``, then the defaults."""
    said = {name: getattr(part, name) for part in (base, over) for name in part.model_fields_set}
    return type(base).model_validate(said)
