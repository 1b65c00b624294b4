"""What a run made travels to other machines; what its config names must be there already."""

import pickle
from pathlib import Path

from privcode.generation import Weights
from privcode.pipeline.scale import _Sent


def test_what_the_run_made_is_sent_and_what_the_config_names_is_not(tmp_path: Path) -> None:
    out, named = tmp_path / "run", tmp_path / "named"
    adapter, whole = out / "models" / "junior", out / "models" / "premium"
    for folder in (adapter, whole / "part", named):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(str(folder.name).encode())
    for model in (str(named), str(whole), "bundled:junior"):
        weights = Weights(model, "bundled:junior", "float32", (adapter, named), end="<end>")
        travelled = pickle.loads(pickle.dumps(_Sent.of(weights, out)))
        moved = out.rename(tmp_path / "moved")
        found = travelled.unpacked()
        moved.rename(out)
        assert found.adapters[1] == named
        assert (found.adapters[0] / "weights").read_bytes() == b"junior"
        assert not found.adapters[0].is_relative_to(tmp_path)
        assert (found.tokenizer, found.end) == ("bundled:junior", "<end>")
        if model == str(whole):
            assert (Path(found.model) / "part" / "weights").read_bytes() == b"part"
        else:
            assert found.model == model
