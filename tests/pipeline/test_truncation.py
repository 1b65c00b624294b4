"""What the context cuts off is for the owner's eyes. Records without code are refused."""

import json
from pathlib import Path

import pytest

from privcode.config import Config, load_config, with_settings
from privcode.errors import UserError
from privcode.files import write_jsonl
from privcode.models import load_model, load_tokenizer
from privcode.pipeline import truncation
from privcode.pipeline.planning import planned, shared_by_many
from privcode.pipeline.run import Run

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-2, units: 6, batch: 6, steps: 1}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 64}
premium: {model: "bundled:premium"}
sanitize: {syntax: {schedule: "off"}}
audit: {repetitions: [2], samples: 1, candidates: 0}
"""
SHORT = {"prompt": "Add.", "code": "x = 1\n"}
CUT = {"prompt": "Add.", "code": "x = 1\n" * 60}
EMPTIED = {"prompt": "Add. " * 60, "code": "x = 1\n"}


def config(folder: Path, rows: list[dict[str, str]]) -> Config:
    write_jsonl(folder / "private.jsonl", rows)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": "Subtract."}])
    (folder / "privcode.yaml").write_text(CONFIG)
    return load_config(folder / "privcode.yaml")


def test_the_owners_terminal_alone_hears_how_many_records_lose_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = config(tmp_path, [SHORT, CUT, CUT, EMPTIED])
    words = "3 of 4 records lose code, because they are longer than junior.max_tokens = 64; 1 of"
    with Run(chosen, tmp_path / "quiet") as run:
        assert words in shared_by_many(chosen, run.plan)
        assert "lose code" not in str(planned(chosen, run.plan))
        run.do("sanitize")
        assert "lose code" not in capsys.readouterr().err
        assert json.loads((run.private / "data.json").read_text())["without_code"] == 1
    monkeypatch.setattr("privcode.console.at_terminal", lambda: True)
    with Run(chosen, tmp_path / "run") as run:
        run.do("sanitize")
    assert f"sanitize: {words}" in capsys.readouterr().err


def test_records_that_all_lose_their_code_are_refused_before_budget_is_spent(
    tmp_path: Path,
) -> None:
    chosen = config(tmp_path, [EMPTIED] * 5)  # the canaries of the audit fit, and do not count
    with Run(chosen, tmp_path / "run") as run:
        with pytest.raises(UserError, match=r"^junior\.max_tokens: no private record has code"):
            run.do("sanitize")
        assert not run.ledger.exists()


def test_one_record_with_code_lets_the_run_go_on(tmp_path: Path) -> None:
    chosen = config(tmp_path, [EMPTIED] * 5 + [CUT])
    with Run(chosen, tmp_path / "run") as run:
        run.do("sanitize")
        assert run.ledger.exists()


def test_of_many_records_some_are_looked_at_and_the_words_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(truncation, "LOOKED_AT", 2)
    monkeypatch.setattr("privcode.console.at_terminal", lambda: True)
    chosen = config(tmp_path, [CUT, SHORT, SHORT, EMPTIED, CUT])  # the first and the fourth
    words = "2 of 2 records that were looked at, of 5, lose code"
    with Run(chosen, tmp_path / "run") as run:
        assert words in shared_by_many(chosen, run.plan)
        run.do("sanitize")
        assert f"sanitize: {words}" in capsys.readouterr().err
        counts = json.loads((run.private / "data.json").read_text())
    assert (counts["without_code"], counts["looked_at"]) == (1, 2)


@pytest.mark.parametrize("last", [EMPTIED, CUT])
def test_where_those_that_were_looked_at_have_no_code_the_others_decide(
    tmp_path: Path, last: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncation, "LOOKED_AT", 2)
    chosen = config(tmp_path, [EMPTIED] * 5 + [last])
    with Run(chosen, tmp_path / "run") as run:
        if last is CUT:
            run.do("sanitize")
        else:
            with pytest.raises(UserError, match="no private record has code"):
                run.do("sanitize")
        assert run.ledger.exists() == (last is CUT)


@pytest.mark.parametrize("records", [1, 2, 9_999, 10_000, 10_001, 20_000, 12_345_678])
def test_records_are_looked_at_evenly(records: int) -> None:
    seen = truncation.looked_at(records)
    assert len(seen) <= truncation.LOOKED_AT
    assert len(seen) * 2 > min(records, truncation.LOOKED_AT)
    assert (len(seen) == records) == (records <= truncation.LOOKED_AT)
    assert 0 <= seen[0] <= seen[-1] < records


def test_a_chat_template_that_fails_on_any_prompt_is_refused_before_budget_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncation, "LOOKED_AT", 1)
    template = (
        "{% for turn in messages %}{% if 'Divide' in turn.content %}{{ raise_exception('no') }}"
        "{% endif %}{{ turn.content }}{% endfor %}"
    )
    written = config(tmp_path, [SHORT, SHORT, SHORT | {"prompt": "Divide."}])
    chosen = with_settings(written, {"junior.template": template}, "here")
    with Run(chosen, tmp_path / "run") as run:
        with pytest.raises(UserError, match="the chat template fails"):
            run.do("sanitize")
        assert not run.ledger.exists()


def test_nothing_is_said_where_nothing_is_cut(tmp_path: Path) -> None:
    chosen = config(tmp_path, [SHORT] * 3)
    with Run(chosen, tmp_path / "run") as run:
        assert "lose code" not in shared_by_many(chosen, run.plan)


def test_a_prompt_that_quotes_a_token_without_an_embedding_is_refused_before_budget_is_spent(
    tmp_path: Path,
) -> None:
    model, tokenizer = load_model("bundled:junior"), load_tokenizer("bundled:junior")
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer.add_tokens([f"<image {n}>" for n in range(rows - len(tokenizer) + 1)], True)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    quoted = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    written = config(tmp_path, [SHORT, SHORT | {"prompt": f"Say {quoted}."}])
    chosen = with_settings(written, {"junior.model": str(tmp_path / "model")}, "here")
    with Run(chosen, tmp_path / "run") as run:
        with pytest.raises(UserError, match="special token for which the model has no") as caught:
            run.do("sanitize")
        assert quoted not in str(caught.value)
        assert not run.ledger.exists()
