"""The prompt: its exact text, and that no response can merge with its end."""

import pytest

from data_prep.prompt import render_direct_prompt, render_prompt, render_question

OPTIONS = ["Aspirin", "Rest"]


def test_the_think_prompt_is_exactly_this() -> None:
    assert render_prompt("What helps?", OPTIONS) == (
        "A conversation between User and Assistant. The User asks a multiple-choice medical question. "
        "The Assistant first thinks about it inside <think> </think> tags, "
        "then gives the letter of the one best option inside <answer> </answer> tags.\n\n"
        "User: What helps?\nA. Aspirin\nB. Rest\nAssistant:\n"
    )


def test_the_direct_prompt_is_exactly_this() -> None:
    assert render_direct_prompt("What helps?", OPTIONS) == (
        "A conversation between User and Assistant. The User asks a multiple-choice medical question. "
        "The Assistant gives the letter of the one best option.\n\n"
        "User: What helps?\nA. Aspirin\nB. Rest\nAssistant:\n"
    )


@pytest.mark.parametrize("render", [render_prompt, render_direct_prompt])
def test_prompts_end_in_a_newline_and_never_in_a_space(render) -> None:
    assert render("q", OPTIONS).endswith(":\n")


@pytest.mark.parametrize("number", [0, 1, 27])
def test_a_number_of_options_without_letters_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"got {number}"):
        render_question("q", ["x"] * number)


def test_26_options_are_lettered_to_z() -> None:
    assert render_question("q", ["x"] * 26).endswith("\nZ. x")
