"""What a model is told comes from the docstring, in whichever form it is written."""

import pytest

from app.llmgine.tools import describe

GOOGLE = """Book a table.

    The restaurant confirms by mail,
    usually within the hour.

    Args:
        guests (int): How many: children count.
        day: Which day,
            not before tomorrow.

    Returns:
        The booking number.

    Raises:
        ValueError: Never.
    """

NUMPY = """Book a table.

    The restaurant confirms by mail,
    usually within the hour.

    Parameters
    ----------
    guests : int
        How many: children count.
    day : str, optional
        Which day,
        not before tomorrow.

    Returns
    -------
    str
        The booking number.
    """

SPHINX = """Book a table.

    The restaurant confirms by mail,
    usually within the hour.

    :param int guests: How many: children count.
    :param day: Which day,
        not before tomorrow.
    :type day: str
    :returns: The booking number.
    :raises ValueError: Never.
    """


def described(docstring: str | None) -> tuple[str, dict[str, str]]:
    def book(guests: int, day: str = "") -> str: ...  # type: ignore[empty-body]

    book.__doc__ = docstring
    spec = describe(book)
    properties = spec.parameters["properties"]
    assert isinstance(properties, dict)
    return spec.description, {
        name: schema["description"]  # type: ignore[misc]
        for name, schema in properties.items()
        if isinstance(schema, dict) and "description" in schema
    }


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_each_form_gives_the_description_and_the_parameters(docstring: str) -> None:
    description, parameters = described(docstring)

    assert description == (
        "Book a table.\n\nThe restaurant confirms by mail,\nusually within the hour."
    )
    assert parameters == {
        "guests": "How many: children count.",
        "day": "Which day,\nnot before tomorrow.",
    }


def test_numpy_parameters_may_share_an_entry() -> None:
    _, parameters = described(
        """Book.

        Parameters
        ----------
        guests, day : str
            Both of them.
        """
    )

    assert parameters == {"guests": "Both of them.", "day": "Both of them."}


@pytest.mark.parametrize(
    ("docstring", "description"),
    [
        (None, ""),
        ("Book a table.", "Book a table."),
        ("\n    Book a table.\n    ", "Book a table."),
        ("Book.\n\n    Example: a table at eight.", "Book.\n\nExample: a table at eight."),
        ("Book.\n\n    Returns:\n        A number.", "Book."),
        ("Book.\n\n    Write to a@b.example: now.", "Book.\n\nWrite to a@b.example: now."),
        ("Book.\n\n    Args:\n    broken", "Book.\n\nArgs:\nbroken"),
    ],
)
def test_text_that_describes_no_parameter_is_the_description(
    docstring: str | None, description: str
) -> None:
    assert described(docstring) == (description, {})


def test_words_for_parameters_that_do_not_exist_are_ignored() -> None:
    assert described("Book.\n\n    Args:\n        ghost: Nobody.") == ("Book.", {})
