"""W&B, MLflow and TensorBoard log what is trained, by their own callbacks; each test needs the package it names."""

from __future__ import annotations

import keras
import pytest
from runs import pairs, small_run
from toys import eager, toy

MISSING = "not installed, so its callback was not run: pip install -e '.[loggers]'"
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="both packages know TensorFlow alone"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mlflow's own, of SQLAlchemy
]


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb", reason=f"wandb is {MISSING}")
    monkeypatch.chdir(tmp_path)
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    yield wandb
    wandb.teardown()  # ends its process


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason=f"mlflow is {MISSING}")
    pytest.importorskip("mlflow.keras", reason="mlflow.keras needs the whole of mlflow, not mlflow-skinny")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("test")
    return mlflow


class PowerFails(keras.callbacks.Callback):
    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch == self.at:
            raise RuntimeError("the power failed")


def test_wandb_logs_fit_offline(wandb, tmp_path):
    from wandb.integration.keras import WandbMetricsLogger

    model = eager(toy("gated_captioner"))
    with wandb.init(project="test") as logged:
        history = model.fit(pairs(model), epochs=2, verbose=0, callbacks=[WandbMetricsLogger()]).history
        assert logged.summary["epoch/loss"] == pytest.approx(history["loss"][-1])
        assert logged.summary["epoch/epoch"] == 1
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_wandb_counts_on_after_a_restart(wandb, tmp_path):
    from wandb.integration.keras import WandbMetricsLogger

    steps = []
    for at in (2, -1):
        with wandb.init(project="test", id="one", resume="allow") as logged:
            callbacks = [WandbMetricsLogger(log_freq=1), PowerFails(at)]
            if at > 0:
                with pytest.raises(RuntimeError, match="the power failed"):
                    small_run(tmp_path / "run", epochs=3, callbacks=callbacks)
            else:
                history = small_run(tmp_path / "run", epochs=3, callbacks=callbacks)
                assert logged.summary["epoch/loss"] == pytest.approx(history.history["loss"][-1])
            steps.append(logged.summary["batch/batch_step"])
    assert steps == [5, 8]  # of three batches an epoch: two epochs, then the third


def test_mlflow_logs_a_run(mlflow, tmp_path):
    with mlflow.start_run() as logged:
        history = small_run(tmp_path / "run", callbacks=[mlflow.keras.MlflowCallback()]).history
        mlflow.log_artifacts(str(tmp_path / "run" / "best"), "weights")
    client = mlflow.MlflowClient()
    losses = client.get_metric_history(logged.info.run_id, "loss")
    assert [one.value for one in sorted(losses, key=lambda one: one.step)] == pytest.approx(history["loss"])
    assert "weights/model.weights.h5" in {one.path for one in client.list_artifacts(logged.info.run_id, "weights")}
    assert "optimizer_learning_rate" in client.get_run(logged.info.run_id).data.params


def test_mlflow_logs_fit_by_itself_and_gives_the_model_back(mlflow, tmp_path):
    model = eager(toy("gated_captioner"))
    mlflow.keras.autolog()
    try:
        history = model.fit(pairs(model), epochs=2, verbose=0).history
    finally:
        mlflow.keras.autolog(disable=True)
    run = mlflow.last_active_run()
    assert run.data.metrics["loss"] == pytest.approx(history["loss"][-1])
    (stored,) = mlflow.search_logged_models(output_format="list")
    again = mlflow.keras.load_model(stored.model_uri)
    for before, after in zip(model.get_weights(), again.get_weights(), strict=True):
        assert (before == after).all()


def test_tensorboard_gets_every_epoch(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed, so it was not run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = small_run(tmp_path / "run", tensorboard=True).history
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "train"), size_guidance={"tensors": 0}).Reload()
    assert len(events.Tensors("epoch_loss")) == len(history["loss"]) == 2
