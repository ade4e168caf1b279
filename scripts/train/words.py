"""The words of the toy world and the tokenizer that reads them.

Owns the vocabulary, the defaults (what a caption does not say) and `tokenizer.json`. The tokenizer's normaliser folds
synonyms and word groups ("pans slowly to the left" is one token, `panleft`) and drops every word it does not know, so
a prompt from outside of the world still renders: as far as its words are known, and with defaults for the rest. It
also appends the thirty-two clock tokens: media rows continue the time axis where the text ends, so the clock tokens sit
at a fixed distance from the first frame whatever the caption's length, and tell each row where it is in the clip.
Never renders anything. Called by `world`, `text` and `export`.
"""
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

# The first word of each attribute is its default: an empty caption is "a large red rubber ball bounces in the centre,
# on grass in daylight, static camera".
ATTRIBUTES = {
    "size": ("large", "small"),
    "colour": ("red", "blue", "green", "yellow", "purple", "orange", "white", "pink"),
    "material": ("rubber", "glass", "metal", "wood"),
    "shape": ("ball", "cube"),
    "motion": ("bounces", "drops", "rollsleft", "rollsright"),
    "place": ("center", "atleft", "atright"),
    "setting": ("daylight", "night", "sunset", "studio"),
    "camera": ("static", "panleft", "panright", "zoomin"),
}
CLOCK = tuple(str(n) for n in range(32))
UNKNOWN = "<unk>"
WORDS = tuple(word for words in ATTRIBUTES.values() for word in words)
VOCABULARY = {word: n for n, word in enumerate((UNKNOWN, *CLOCK, *WORDS))}
VOCABULARY_SIZE = 96  # rounded up, so that a later word does not change a shape

_FILLER = "(?: (?:slowly|quickly|gently|smoothly|moves|moving|turns|turning|goes|along|across|over|to|towards|the|a|it))"
# Folded in this order, on lower-case text with single spaces.
_FOLDS = (
    (r"\bfrom (?:the )?left to (?:the )?right\b", "right"),
    (r"\bfrom (?:the )?right to (?:the )?left\b", "left"),
    (r"\b(left|right)(?:wards?|hand)\b", None),  # expanded below: the normaliser has no groups
    (r"\bgolden hour\b", "sunset"),
    (r"\bzoom(?:s|ing|ed)? out\b", "static"),
    (r"\b(?:camera )?(?:slowly |slow )?zoom(?:s|ing|ed)?(?: slowly| gently)?(?: in| into| closer)?\b", "zoomin"),
    (r"\b(?:dolly|push|pushes) in\b", "zoomin"),
    (rf"\b(?:pan|pans|panning|panned){_FILLER}{{0,4}} left\b", "panleft"),
    (rf"\b(?:pan|pans|panning|panned){_FILLER}{{0,4}} right\b", "panright"),
    (rf"\bcamera{_FILLER}{{1,5}} left\b", "panleft"),
    (rf"\bcamera{_FILLER}{{1,5}} right\b", "panright"),
    (r"\b(left|right) pan\b", None),
    (r"\b(?:roll|rolls|rolling|slide|slides|sliding|glides|gliding|moves|moving|travels)(?: [a-z]+){0,3}? left\b",
     "rollsleft"),
    (r"\b(?:roll|rolls|rolling|slide|slides|sliding|glides|gliding|moves|moving|travels)(?: [a-z]+){0,3}? right\b",
     "rollsright"),
    (r"\b(?:rolls|rolling|roll|slides|sliding)\b", "rollsright"),
    (r"\bleft\b", "atleft"),
    (r"\bright\b", "atright"),
)
_SYNONYMS = {
    "large": "big huge giant massive enormous",
    "small": "tiny little mini miniature",
    "red": "crimson scarlet",
    "blue": "azure navy",
    "green": "emerald lime",
    "yellow": "golden",
    "purple": "violet",
    "pink": "rose magenta",
    "rubber": "rubbery elastic bouncy",
    "glass": "crystal",
    "metal": "metallic steel iron chrome",
    "wood": "wooden timber oak",
    "ball": "balls sphere orb",
    "cube": "cubes box block dice",
    "bounces": "bounce bouncing bounced jumps jumping hops hopping",
    "drops": "drop dropping dropped falls fall falling",
    "center": "centre middle centered",
    "daylight": "day daytime sunny sunlight sunshine noon afternoon",
    "night": "nighttime midnight moon moonlight moonlit starry",
    "sunset": "dusk evening sundown twilight",
    "studio": "indoors indoor backdrop",
    "static": "still fixed locked",
}


def _folds():
    """Every replacement in order, the two-sided ones written out for each side."""
    for pattern, word in _FOLDS:
        if word is not None:
            yield pattern, word
            continue
        for side in ("left", "right"):
            yield pattern.replace("(left|right)", side), f"pan{side}" if "pan" in pattern else side
    for word, synonyms in _SYNONYMS.items():
        yield rf"\b(?:{synonyms.replace(' ', '|')})\b", word


def tokenizer():
    """The `tokenizers` tokenizer of the toy world. Read with `add_special_tokens=False`, as the H3 pipeline does."""
    known = "|".join(WORDS)
    steps = [normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z]+"), " ")]
    steps += [normalizers.Replace(Regex(pattern), word) for pattern, word in _folds()]
    # The clock goes in before the unknown words go out: a replacement at the end of an empty string does nothing.
    steps.append(normalizers.Replace(Regex(r"\z"), " " + " ".join(CLOCK)))
    steps.append(normalizers.Replace(Regex(rf"\b(?!(?:{known})\b)[a-z]+\b"), ""))
    result = Tokenizer(models.WordLevel(VOCABULARY, unk_token=UNKNOWN))
    result.normalizer = normalizers.Sequence(steps)
    result.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return result


def save(folder):
    """Writes `tokenizer.json` and the small `tokenizer_config.json` beside it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def ids(tokens):
    """Token ids of canonical words, with the clock appended: what the tokenizer makes of the same caption."""
    return [VOCABULARY[token] for token in (*tokens, *CLOCK)]
