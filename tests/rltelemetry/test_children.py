"""Children: forked, spawned, of a pool, of a DataLoader. What they log lands once, and nobody waits for a lock."""

from pathlib import Path

import pytest
from programs import assert_all_arrived, run_script, start_script, steps_of, wait_for_line

from rltelemetry.testing import FakeMlflow, ToxicProxy


def test_os_fork_child_logs_into_the_same_run_and_the_parent_is_not_sent_twice(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit(50)
        pid = os.fork()
        if pid == 0:
            emit(50, start=50)
            telemetry.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        emit(100, start=100)
    """
    assert run_script(body, fake_mlflow.uri).code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_child_that_runs_off_the_with_block_leaves_the_run_to_its_parent(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit(50)
        pid = os.fork()
        if pid == 0:
            emit(50, start=50)
        else:
            assert os.waitpid(pid, 0)[1] == 0
            emit(100, start=100)
    """
    assert run_script(body, fake_mlflow.uri).code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_multiprocessing_children_are_heard_though_they_leave_by_os_exit(fake_mlflow: FakeMlflow) -> None:
    body = """
    import multiprocessing
    context = multiprocessing.get_context("fork")
    def work(start): emit(50, start=start)
    with configure():
        emit(50)
        children = [context.Process(target=work, args=(start,)) for start in (50, 100, 150)]
        for child in children: child.start()
        for child in children: child.join()
        assert [child.exitcode for child in children] == [0, 0, 0]
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_fifty_forks_beside_a_logging_thread_never_deadlock(fake_mlflow: FakeMlflow) -> None:
    body = """
    stop = threading.Event()
    def chatter():
        while not stop.is_set():
            log.info("chatter", category="ACTOR", value=1.0, step=1)
            time.sleep(0.0005)
    with configure() as telemetry:
        thread = threading.Thread(target=chatter)
        thread.start()
        for number in range(50):
            pid = os.fork()
            if pid == 0:
                log.info("train", category="TRAINER", loss=float(number), timesteps=number)
                telemetry.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
    """
    ended = run_script(body, fake_mlflow.uri, timeout_s=60.0)
    assert ended.code == 0, ended.output
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == list(range(50))


def test_child_that_never_logs_opens_nothing(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit()
        pid = os.fork()
        if pid == 0:
            assert threading.active_count() == 1
            telemetry.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    assert run_script(body, fake_mlflow.uri).code == 0
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_signals_are_a_childs_own_until_it_has_something_to_close(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit(100)
        ours = signal.getsignal(signal.SIGTERM)
        pid = os.fork()
        if pid == 0:
            before = signal.getsignal(signal.SIGTERM)
            emit(100, start=100)
            after = signal.getsignal(signal.SIGTERM)
            telemetry.close()
            os._exit(0 if (before, after) == (signal.SIG_DFL, ours) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert signal.getsignal(signal.SIGTERM) == ours
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_child_that_is_ended_as_soon_as_it_is_there_dies(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit()
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()
            os.kill(pid, signal.SIGTERM)
            assert os.waitpid(pid, 0)[1] == signal.SIGTERM
    """
    ended = run_script(body, fake_mlflow.uri, timeout_s=30.0)
    assert ended.code == 0, ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_child_of_a_server_that_is_away_leaves_at_once_and_its_parent_sends_it_all(fake_mlflow: FakeMlflow) -> None:
    with ToxicProxy(fake_mlflow.port) as proxy:
        proxy.set_mode("hang")
        body = """
        with configure() as telemetry:
            emit(100)
            pid = os.fork()
            if pid == 0:
                emit(100, start=100)
                start = time.monotonic()
                telemetry.close()
                os._exit(0 if time.monotonic() - start < 10 else 1)
            assert os.waitpid(pid, 0)[1] == 0
            print("ready", flush=True)
            sys.stdin.readline()
        """
        with start_script(body, proxy.uri) as process:
            wait_for_line(process, "ready")
            proxy.set_mode("pass")
            output = process.communicate("go\n", timeout=60)[0]
        assert process.returncode == 0, output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_child_that_can_open_no_pipeline_goes_on_and_says_so_once(fake_mlflow: FakeMlflow) -> None:
    body = """
    import threading
    with configure() as telemetry:
        emit(100)
        pid = os.fork()
        if pid == 0:
            def refuse(thread): raise RuntimeError("can't start new thread")
            threading.Thread.start = refuse
            for _ in range(3):
                structlog.get_logger().info("unheard", timesteps=1, loss=0.5)
            telemetry.log_params({"gamma": 0.9})
            with telemetry.span("update") as span:
                assert not span.is_recording()
            telemetry.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        emit(100, start=100)
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert ended.output.count("this forked child has no telemetry") == 1
    assert ended.output.count("unheard") == 3
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_signal_handler_that_logs_while_a_child_opens_its_pipeline_opens_no_second(fake_mlflow: FakeMlflow) -> None:
    body = """
    import rltelemetry.parts
    with configure() as telemetry:
        assert telemetry.wait_ready(10)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, lambda *_: emit(1, start=7))
            make = rltelemetry.parts.MlflowExport.__init__
            def make_and_be_interrupted(self, *args):
                rltelemetry.parts.MlflowExport.__init__ = make
                make(self, *args)
                signal.raise_signal(signal.SIGALRM)
            rltelemetry.parts.MlflowExport.__init__ = make_and_be_interrupted
            emit(1)
            workers = [thread for thread in threading.enumerate() if thread.name == "rltelemetry"]
            telemetry.close()
            os._exit(len(workers))
        print("workers:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert "workers: 1" in ended.output
    assert "timesteps=7" in ended.output
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == [0]


def test_grandchildren_are_heard(fake_mlflow: FakeMlflow) -> None:
    body = """
    with configure() as telemetry:
        emit(50)
        if (child := os.fork()) == 0:
            emit(50, start=50)
            if (grandchild := os.fork()) == 0:
                emit(50, start=100)
                time.sleep(0.3)
                os._exit(0)   # without a word
            os.waitpid(grandchild, 0)
            telemetry.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        emit(50, start=150)
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_pool_that_is_terminated_loses_nothing_that_was_logged(fake_mlflow: FakeMlflow) -> None:
    body = """
    import multiprocessing
    def work(start):
        emit(50, start=start)
        return start
    with configure():
        with multiprocessing.get_context("fork").Pool(2) as pool:   # leaving this block terminates it
            assert pool.map(work, [0, 50, 100, 150]) == [0, 50, 100, 150]
    """
    ended = run_script(body, fake_mlflow.uri)
    assert ended.code == 0, ended.output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_spawned_child_that_is_given_the_run_logs_into_it_and_does_not_end_it(
    fake_mlflow: FakeMlflow, tmp_path: Path
) -> None:
    body = """
    import multiprocessing
    def work(run_id, start):
        with configure(run_id=run_id): emit(50, start=start)
    if __name__ == "__main__":
        with configure() as telemetry:
            emit(100)
            assert telemetry.wait_ready(20)
            context = multiprocessing.get_context("spawn")
            for start in (100, 150):
                child = context.Process(target=work, args=(telemetry.run_id, start))
                child.start()
                child.join()
                assert child.exitcode == 0
            print("ready", flush=True)
            sys.stdin.readline()
    """
    with start_script(body, fake_mlflow.uri, file=tmp_path / "script.py") as process:
        wait_for_line(process, "ready")
        (run,) = fake_mlflow.runs()
        assert run.status == "RUNNING"
        output = process.communicate("go\n", timeout=60)[0]
    assert process.returncode == 0, output
    assert_all_arrived(fake_mlflow, "FINISHED")


def test_spawned_child_without_a_pipeline_prints_what_it_logs(fake_mlflow: FakeMlflow, tmp_path: Path) -> None:
    body = """
    import multiprocessing
    def work(logger): logger.info("from the child", loss=1.0, step=1)
    if __name__ == "__main__":
        with configure() as telemetry:
            child = multiprocessing.get_context("spawn").Process(target=work, args=(log.bind(seed=1),))
            child.start()
            child.join()
            assert child.exitcode == 0
    """
    ended = run_script(body, fake_mlflow.uri, file=tmp_path / "script.py")
    assert ended.code == 0, ended.output
    assert "from the child" in ended.output
    assert len(fake_mlflow.runs()) == 1


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader_are_heard(fake_mlflow: FakeMlflow, tmp_path: Path, context: str) -> None:
    pytest.importorskip("torch")
    body = f"""
    import torch
    class Numbers(torch.utils.data.Dataset):
        run_id = None
        def __len__(self): return 200
        def __getitem__(self, index):
            log.info("item", category="TRAINER", loss=float(index), timesteps=index)
            return index
    def begin(_worker):
        if {context!r} == "spawn":
            configure(run_id=torch.utils.data.get_worker_info().dataset.run_id)
    if __name__ == "__main__":
        with configure() as telemetry:
            assert telemetry.wait_ready(20)
            numbers = Numbers()
            numbers.run_id = telemetry.run_id
            loader = torch.utils.data.DataLoader(
                numbers, batch_size=10, num_workers=2, multiprocessing_context={context!r}, worker_init_fn=begin
            )
            assert sum(len(batch) for batch in loader) == 200
    """
    ended = run_script(body, fake_mlflow.uri, file=tmp_path / "script.py", timeout_s=100.0)
    assert ended.code == 0, ended.output
    (run,) = fake_mlflow.runs()
    assert steps_of(fake_mlflow, run.run_id) == list(range(200))
    assert run.status == "FINISHED"
