"""``metalhub completion``: a script for bash, from the same table that the parser is made from."""

from __future__ import annotations

from collections.abc import Iterable

from .frame import Ask, Noun, Verb


def script(nouns: Iterable[Noun]) -> str:
    """Nouns, then verbs, then options; after an option with a directory, directories."""
    everything = list(nouns)
    cases = [f"    '') words='{' '.join(noun.name for noun in everything)} --help' ;;"]
    for noun in everything:
        cases.append(f"    '{noun.name}') words='{' '.join(verb.name for verb in noun.verbs)} --help' ;;")
        for verb in noun.verbs:
            options = [argument.name for argument in verb.all_arguments if argument.name.startswith("--")]
            cases.append(f"    '{noun.name} {verb.name}') words='{' '.join(options)} --help' ;;")
    return "\n".join(
        [
            "_metalhub() {",
            "  local current=${COMP_WORDS[COMP_CWORD]} words=''",
            "  if [ \"${COMP_WORDS[COMP_CWORD-1]}\" = --directory ]; then",
            "    mapfile -t COMPREPLY < <(compgen -d -- \"$current\")",
            "    return",
            "  fi",
            "  local said=\"${COMP_WORDS[*]:1:COMP_CWORD > 3 ? 2 : COMP_CWORD - 1}\"",
            "  case $said in",
            *cases,
            "  esac",
            "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")",
            "}",
            "complete -F _metalhub metalhub",
        ]
    )


def bash(ask: Ask) -> None:
    from .commands import NOUNS

    print(script(NOUNS))


NOUN = Noun("completion", "the shell's help with these words", (Verb("bash", "print the script for bash", bash, json=False),))
