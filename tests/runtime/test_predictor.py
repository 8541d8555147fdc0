"""The three modes: which graphs really ran, and what came out."""

import math
import multiprocessing
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Timer

import numpy as np
import pytest
from PIL import Image

from offramp.errors import InputError
from offramp.policy import GRID, MEAN, PIXEL_THRESHOLDS, image_score
from offramp.runtime.engines import open_engine
from offramp.runtime.predictor import Plan, Predictor
from offramp.runtime.staged_network import StagedNetwork
from offramp.specs import REGIONS

ALL_GRAPHS = ["stage 0", "head 0", "stage 1", "head 1", "stage 2", "head 2", "labels 2"]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(6).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def grey():
    return np.full((64, 96, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def network(decided_package):
    return StagedNetwork(decided_package, open_engine("onnxruntime", 1))


@pytest.fixture(scope="module")
def answers(network, noise, grey):
    """What each exit says of each of the two images: labels and counts of sure pixels."""
    found = {}
    for name, image in (("noise", noise), ("grey", grey)):
        found[name] = [(answer.labels(), answer.sure) for answer in network.iter_exits(image)]
    return found


def open_predictor(package, **options):
    """A predictor, warmed up, and the list of the graphs that it runs from now on."""
    predictor = Predictor(package, threads=1, **options)
    predictor.warm_up()
    ran = []

    def watched(graph, name):
        def run(inputs):
            ran.append(name)
            return graph(inputs)

        return run

    network = predictor.network
    network._stages = [watched(graph, f"stage {index}") for index, graph in enumerate(network._stages)]
    numbers = {name: index for index, name in enumerate(network.manifest.exits)}
    network._head_graphs = {name: watched(graph, f"head {numbers[name]}") for name, graph in network._head_graphs.items()}
    for name, head in zip(network.exits, network.heads, strict=True):
        entry, graph = network._labels[head.labels]
        network._labels[head.labels] = (entry, watched(graph, f"labels {numbers[name]}"))
    return predictor, ran


def score(sure, region, threshold):
    total = int(sure[region][0])
    return int(sure[region][threshold]) / total if total else 1.0


@pytest.fixture(scope="module")
def split_point(answers):
    """A pixel threshold at which the first exit's scores of the two images differ most; the sure image and the unsure one."""
    scores = {name: [score(found[0][1], 0, index) for index in range(GRID)] for name, found in answers.items()}
    gaps = [abs(scores["noise"][index] - scores["grey"][index]) for index in range(GRID)]
    best = int(np.argmax(gaps))
    assert gaps[best] > 0.05, "the two images must differ for the test to say something"
    unsure, sure = sorted(scores, key=lambda name: scores[name][best])
    return best, sure, unsure, scores[sure][best], scores[unsure][best]


# --------------------------------------------------------------------------------------------------------------- budgeted


@pytest.mark.parametrize("index", [0, 1, 2])
def test_budgeted_runs_the_chosen_exit_alone(with_deployments, network, answers, noise, index):
    chosen = network.exits[index]
    predictor, ran = open_predictor(with_deployments({"mode": "budgeted", "exits": (chosen,)}))
    answer = predictor(noise)
    assert ran == [*(f"stage {stage}" for stage in range(index + 1)), f"head {index}", f"labels {index}"]
    assert list(answer.steps_ms) == [*(f"stage {stage}" for stage in range(index + 1)), f"head {chosen}", f"labels {chosen}"]
    assert answer.exit == chosen
    assert answer.scores == {}
    loaded = predictor.network
    assert (len(loaded._stages), len(loaded._head_graphs), len(loaded._labels)) == (index + 1, 1, 1), "the rest is not loaded"
    np.testing.assert_array_equal(answer.labels, answers["noise"][index][0])


def test_without_a_deployment_the_deepest_exit_answers(package, answers, noise):
    predictor, ran = open_predictor(package)
    answer = predictor(noise)
    assert (predictor.mode, predictor.deployment, answer.exit) == ("budgeted", None, "final")
    assert ran == ["stage 0", "stage 1", "stage 2", "head 2", "labels 2"]
    np.testing.assert_array_equal(answer.labels, answers["noise"][2][0])
    assert answer.latency_ms >= sum(answer.steps_ms.values())


# -------------------------------------------------------------------------------------------------------- input-dependent


def input_dependent(network, thresholds, region="all", pixel_threshold=0):
    return {
        "mode": "input-dependent",
        "exits": network.exits,
        "region": region,
        "pixel_threshold": pixel_threshold,
        "image_thresholds": thresholds,
    }


def test_a_bar_of_nought_lets_everything_leave_at_the_first_exit(with_deployments, network, noise, answers):
    predictor, ran = open_predictor(with_deployments(input_dependent(network, (0.0, 0.0), pixel_threshold=GRID - 1)))
    answer = predictor(noise)
    assert answer.exit == network.exits[0]
    assert ran == ["stage 0", "head 0", "labels 0"]
    np.testing.assert_array_equal(answer.labels, answers["noise"][0][0])


def test_a_bar_above_one_lets_nothing_leave_early(with_deployments, network, noise, answers):
    predictor, ran = open_predictor(with_deployments(input_dependent(network, (1.01, 1.01))))
    answer = predictor(noise)
    assert answer.exit == "final"
    assert ran == ALL_GRAPHS
    found = list(predictor.network.iter_exits(noise))
    # The pixel threshold 0 stands for the mean confidence, which is at most that of the last step of the grid.
    assert answer.scores == {one.exit: float(image_score(one.sure, 0, MEAN)) for one in found}
    assert all(0.3 < score < PIXEL_THRESHOLDS[-1] for score in answer.scores.values())
    np.testing.assert_array_equal(answer.labels, answers["noise"][2][0])


def test_the_second_exit_is_judged_by_its_own_bar(with_deployments, network, noise):
    predictor, ran = open_predictor(with_deployments(input_dependent(network, (1.01, 0.0))))
    assert predictor(noise).exit == network.exits[1]
    assert ran == ["stage 0", "head 0", "stage 1", "head 1", "labels 1"]


def test_sure_images_leave_and_unsure_ones_go_on(with_deployments, network, noise, grey, split_point):
    pixel_threshold, sure, unsure, high, low = split_point
    images = {"noise": noise, "grey": grey}
    folder = with_deployments(input_dependent(network, ((high + low) / 2, 1.01), pixel_threshold=pixel_threshold))
    predictor, ran = open_predictor(folder)
    first = predictor(images[sure])
    assert (first.exit, first.scores) == (network.exits[0], {network.exits[0]: high})
    assert ran == ["stage 0", "head 0", "labels 0"]
    ran.clear()
    second = predictor(images[unsure])
    assert second.exit == "final"
    assert second.scores[network.exits[0]] == low
    assert ran == ALL_GRAPHS


def test_a_score_that_equals_the_bar_leaves(with_deployments, network, noise, grey, split_point):
    pixel_threshold, sure, _, high, _ = split_point
    image = {"noise": noise, "grey": grey}[sure]
    for bar, wanted in ((high, network.exits[0]), (math.nextafter(high, 2), "final")):
        folder = with_deployments(input_dependent(network, (bar, 1.01), pixel_threshold=pixel_threshold))
        assert Predictor(folder, threads=1)(image).exit == wanted


@pytest.mark.parametrize("region", REGIONS)
def test_scores_are_of_the_deployments_region(with_deployments, network, noise, answers, region):
    folder = with_deployments(input_dependent(network, (1.01, 1.01), region=region, pixel_threshold=9))
    got = Predictor(folder, threads=1)(noise).scores
    wanted = [score(sure, REGIONS.index(region), 9) for _, sure in answers["noise"]]
    assert list(got) == list(network.exits)
    assert list(got.values()) == pytest.approx(wanted, abs=1e-12)


# ---------------------------------------------------------------------------------------------------------------- anytime


def test_an_impossible_deadline_gets_the_first_exit(package, network, noise, answers):
    predictor, ran = open_predictor(package, mode="anytime")
    answer = predictor(noise, deadline_ms=1e-6)
    assert answer.exit == network.exits[0]
    assert ran == ["stage 0", "head 0", "labels 0"]
    np.testing.assert_array_equal(answer.labels, answers["noise"][0][0])


@pytest.mark.parametrize("deadline", [None, 600_000.0])
def test_time_enough_gets_the_last_exit(package, noise, answers, deadline):
    predictor, ran = open_predictor(package, mode="anytime")
    answer = predictor(noise, deadline_ms=deadline)
    assert answer.exit == "final"
    assert ran == ALL_GRAPHS, "only the last exit's label map is made"
    np.testing.assert_array_equal(answer.labels, answers["noise"][2][0])


def set_recent(predictor, step, times):
    """Of the pace of the warm-up."""
    predictor._pace._relative[step].clear()
    predictor._pace._relative[step].extend(times)


@pytest.mark.parametrize("step", ["reach final", "finish final"])
def test_an_exit_that_took_too_long_lately_is_not_begun(package, network, noise, step):
    predictor, ran = open_predictor(package, mode="anytime")
    set_recent(predictor, step, [1e7] * 10)
    assert predictor(noise, deadline_ms=600_000).exit == network.exits[1]
    assert ran == ["stage 0", "head 0", "stage 1", "head 1", "labels 1"]


def test_what_steps_take_is_learnt_once_before_the_first_deadline(package, noise):
    predictor, ran = open_predictor(package, mode="anytime")
    predictor._pace._relative.clear()
    predictor(noise, deadline_ms=600_000)
    assert len(ran) > len(ALL_GRAPHS)
    assert ran[-len(ALL_GRAPHS) :] == ALL_GRAPHS
    ran.clear()
    predictor(noise, deadline_ms=600_000)
    assert ran == ALL_GRAPHS


@pytest.mark.parametrize(("slow", "wanted"), [(1, "final"), (2, 1)])
def test_an_exit_is_begun_at_a_risk_of_one_in_a_hundred(package, network, noise, slow, wanted):
    predictor, _ = open_predictor(package, mode="anytime")
    # Two exits share the risk.
    set_recent(predictor, "reach final", [1.0] * (200 - slow) + [1e7] * slow)
    assert predictor(noise, deadline_ms=600_000).exit == (wanted if isinstance(wanted, str) else network.exits[wanted])


def test_what_exits_take_is_noted_while_they_run(package, noise):
    predictor, _ = open_predictor(package, mode="anytime")
    answer = predictor(noise, deadline_ms=600_000)
    steps, pace = answer.steps_ms, predictor._pace
    reached = steps["stage 2"] + steps["head final"]
    assert pace._relative["reach final"][-1] * pace._pace_ms == pytest.approx(reached)
    assert pace._first[-1] == pytest.approx(steps["stage 0"] + steps[f"head {predictor.exits[0]}"])
    assert pace._relative["finish final"][-1] * pace._pace_ms >= steps["labels final"]


def test_the_deployments_exits_alone_are_asked(with_deployments, network, noise):
    predictor, ran = open_predictor(with_deployments({"mode": "anytime", "exits": (network.exits[0], "final")}))
    assert predictor(noise).exit == "final"
    assert ran == ["stage 0", "head 0", "stage 1", "stage 2", "head 2", "labels 2"]


@pytest.mark.parametrize("deadline", [math.nan, math.inf, -1.0, 0.0])
def test_a_deadline_is_a_positive_number(package, noise, deadline):
    predictor, ran = open_predictor(package, mode="anytime")
    with pytest.raises(InputError, match="deadline must be a positive number"):
        predictor(noise, deadline_ms=deadline)
    assert ran == []


# ----------------------------------------------------------------------------------------------------------------- refine


def test_refining_stops_where_the_caller_stops(package, network, noise):
    predictor, ran = open_predictor(package, mode="anytime")
    for answer in predictor.refine(noise):
        assert answer.exit == network.exits[0]
        break
    assert ran == ["stage 0", "head 0", "labels 0"]


def test_refined_answers_are_those_of_the_exits(package, network, noise, answers):
    got = list(Predictor(package, threads=1, mode="anytime").refine(noise))
    assert [answer.exit for answer in got] == list(network.exits)
    for answer, (labels, _) in zip(got, answers["noise"], strict=True):
        np.testing.assert_array_equal(answer.labels, labels)
    assert got[0].latency_ms < got[1].latency_ms < got[2].latency_ms
    assert [len(answer.steps_ms) for answer in got] == [3, 6, 9], "what an answer says of itself does not change later"


def test_a_new_plan_ends_the_image_that_is_being_refined(package, noise):
    predictor, _ = open_predictor(package, mode="anytime")
    exits = predictor.refine(noise)
    next(exits)
    predictor.change(Plan("budgeted", ("final",)))
    with pytest.raises(RuntimeError, match="before the plan changes"):
        next(exits)
    assert predictor(noise).exit == "final"


def test_a_new_image_ends_the_one_that_is_being_refined(package, noise, grey):
    predictor, _ = open_predictor(package, mode="anytime")
    exits = predictor.refine(noise)
    next(exits)
    wanted = Predictor(package, threads=1, mode="anytime")(grey).labels
    np.testing.assert_array_equal(predictor(grey).labels, wanted)
    with pytest.raises(RuntimeError, match="before the next image"):
        next(exits)


def test_threads_get_the_answers_of_their_own_images(package, noise, grey, answers):
    predictor = Predictor(package, threads=1, mode="anytime")
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(predictor, [noise, grey] * 8))
    for index, answer in enumerate(got):
        np.testing.assert_array_equal(answer.labels, answers[("noise", "grey")[index % 2]][2][0])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_two_predictors_in_two_threads_do_not_know_of_each_other(package, engine):
    pytest.importorskip(engine)
    predictors = [Predictor(package, threads=threads, engine=engine, mode="anytime") for threads in (1, 2)]
    images = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(12)]
    wanted = [predictors[0](image).labels for image in images]

    def work(predictor):
        return [predictor(image).labels for image in images]

    with ThreadPoolExecutor(2) as pool:
        for got in pool.map(work, predictors):
            np.testing.assert_array_equal(got, wanted)


def test_the_wait_for_another_threads_image_is_part_of_the_latency(package, noise):
    predictor, _ = open_predictor(package, mode="anytime")
    allowed = holding(predictor, 0)
    Timer(0.2, allowed.set).start()
    with ThreadPoolExecutor(2) as pool:
        latencies = [answer.latency_ms for answer in pool.map(predictor, [noise, noise])]
    assert min(latencies) > 100


def test_a_predictor_is_not_sent_to_another_process(package):
    with pytest.raises(TypeError, match=r"open its package there: Predictor\(PACKAGE\)"):
        pickle.dumps(Predictor(package, threads=1))


def test_a_process_forked_while_nothing_is_answered_answers_too(package, noise, answers):
    predictor = Predictor(package, threads=1, mode="anytime")
    predictor(noise)
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        process = context.Process(target=lambda: said.put(predictor(noise).labels))
        process.start()
    np.testing.assert_array_equal(said.get(timeout=30), answers["noise"][2][0])
    process.join()


# -------------------------------------------------------------------------------------------------------------- background


def holding(predictor, index):
    """Let the stage of this index wait until it is allowed to run."""
    allowed, graph = Event(), predictor.network._stages[index]

    def run(inputs):
        assert allowed.wait(30)
        return graph(inputs)

    predictor.network._stages[index] = run
    return allowed


def test_the_latest_answer_is_there_at_any_moment(package, network, noise, answers):
    predictor, ran = open_predictor(package, mode="anytime")
    assert predictor.latest() is None
    first, second = holding(predictor, 0), holding(predictor, 1)
    background = predictor.start(noise)
    assert (background.latest(), background.running) == (None, True)
    first.set()
    while background.latest() is None:
        time.sleep(0.001)
    assert predictor.latest().exit == network.exits[0]
    np.testing.assert_array_equal(background.latest().labels, answers["noise"][0][0])
    second.set()
    assert background.wait(30).exit == "final"
    assert not background.running
    np.testing.assert_array_equal(predictor.latest().labels, answers["noise"][2][0])
    assert ran[-1] == "labels 2"


@pytest.mark.parametrize("how", ["stop", "start", "call"])
def test_what_runs_in_the_background_begins_no_exit_once_it_is_stopped(package, network, noise, grey, how):
    predictor, ran = open_predictor(package, mode="anytime")
    allowed = holding(predictor, 1)
    background = predictor.start(noise)
    while background.latest() is None:
        time.sleep(0.001)
    Timer(0.05, allowed.set).start()
    {"stop": background.stop, "start": lambda: predictor.start(grey).wait(30), "call": lambda: predictor(grey)}[how]()
    background.wait(30)
    assert background.latest().exit == network.exits[1]
    assert ran.count("stage 2") == (how != "stop")


def test_an_error_in_the_background_is_told(package, noise):
    predictor, _ = open_predictor(package, mode="anytime")

    def broken(_):
        raise ZeroDivisionError

    predictor.network._stages[1] = broken
    with pytest.raises(ZeroDivisionError):
        predictor.start(noise).wait(30)


# ------------------------------------------------------------------------------------------------------------ what goes in


@pytest.mark.parametrize("shape", [(40, 50), (200, 130), (64, 97), (1, 1)])
def test_labels_come_back_at_the_images_size(package, shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    predictor = Predictor(package, threads=1)
    answer = predictor(image)
    assert answer.labels.shape == shape
    assert answer.labels.dtype == np.uint8
    inside = np.asarray(Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR))
    wanted = Image.fromarray(predictor(inside).labels).resize(shape[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(answer.labels, np.asarray(wanted))


def test_images_of_every_kind_mean_the_same(package, noise, tmp_path):
    predictor = Predictor(package, threads=1)
    wanted = predictor(noise).labels
    Image.fromarray(noise).save(tmp_path / "image.png")
    for same in (Image.fromarray(noise), tmp_path / "image.png", str(tmp_path / "image.png"), noise[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(predictor(same).labels, wanted)
    grey = Image.fromarray(noise[..., 1])
    three = np.repeat(noise[..., 1:2], 3, axis=2)
    np.testing.assert_array_equal(predictor(grey).labels, predictor(three).labels)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((64, 96, 3), np.float32), r"float32 \(64, 96, 3\)"),
        (np.zeros((64, 96), np.uint8), r"uint8 \(64, 96\)"),
        (np.zeros((3, 64, 96), np.uint8), r"uint8 \(3, 64, 96\)"),
        (np.zeros((64, 96, 4), np.uint8), r"uint8 \(64, 96, 4\)"),
        (np.zeros((0, 96, 3), np.uint8), r"uint8 \(0, 96, 3\)"),
        ([[1, 2, 3]], "list"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_image_is_refused(package, image, got):
    predictor, ran = open_predictor(package)
    for ask in (predictor, lambda given: next(predictor.refine(given))):
        with pytest.raises(InputError, match=f"an image must be RGB, uint8 .*got {got}"):
            ask(image)
    assert ran == []


def test_a_file_that_is_no_image_is_refused(package, tmp_path):
    (tmp_path / "image.png").write_text("no image")
    predictor = Predictor(package, threads=1)
    for path in (tmp_path / "image.png", tmp_path / "absent.png"):
        with pytest.raises(InputError, match=path.name):
            predictor(path)


# ------------------------------------------------------------------------------------------------------------------- modes


def test_thresholds_cannot_be_made_up(package):
    with pytest.raises(InputError, match="no input-dependent deployment"):
        Predictor(package, threads=1, mode="input-dependent")


def test_an_unknown_mode_is_refused(package):
    with pytest.raises(InputError, match="unknown mode 'adaptive'; there are budgeted, anytime, input-dependent"):
        Predictor(package, threads=1, mode="adaptive")


def test_the_mode_chooses_among_deployments(with_deployments, network):
    folder = with_deployments(
        {"mode": "anytime", "exits": network.exits[:2]},
        input_dependent(network, (0.5, 0.5)),
        {"mode": "anytime", "exits": network.exits},
    )
    assert Predictor(folder, threads=1).exits == network.exits[:2]
    assert Predictor(folder, threads=1, mode="anytime").exits == network.exits[:2]
    asked = Predictor(folder, threads=1, mode="input-dependent")
    assert asked.deployment.image_thresholds == (0.5, 0.5)
    without = Predictor(folder, threads=1, mode="budgeted")
    assert (without.deployment, without.exits) == (None, ("final",))


# ------------------------------------------------------------------------------------------------------------ other plans


def test_a_plan_is_followed_from_the_next_image_on(decided_package, answers, split_point, noise, grey):
    threshold, sure, _, high, low = split_point
    images = {"noise": noise, "grey": grey}
    predictor, ran = open_predictor(decided_package, every_exit=True)
    first, second, final = predictor.network.exits
    predictor(noise)
    assert ran == ["stage 0", "stage 1", "stage 2", "head 2", "labels 2"]
    ran.clear()
    predictor.change(Plan("budgeted", (second,)))
    assert predictor(noise).exit == second
    assert ran == ["stage 0", "stage 1", "head 1", "labels 1"]
    predictor.change(Plan("input-dependent", (first, final), "all", threshold, ((high + low) / 2,)))
    assert (predictor.mode, predictor.exits) == ("input-dependent", (first, final))
    for name, image in images.items():
        answer = predictor(image)
        assert answer.exit == (first if name == sure else final)
        assert answer.scores[first] == (high if name == sure else low)
        np.testing.assert_array_equal(answer.labels, answers[name][0 if name == sure else 2][0])


def test_with_other_exits_their_times_are_learnt_again(decided_package, noise):
    predictor, ran = open_predictor(decided_package, every_exit=True)
    first, second, final = predictor.network.exits
    predictor.change(Plan("anytime", (first, second, final)))
    assert predictor(noise, deadline_ms=60_000).exit == final
    ran.clear()
    predictor.change(Plan("input-dependent", (first, second, final), image_thresholds=(2.0, 2.0)))
    predictor(noise, deadline_ms=60_000)
    assert ran.count("stage 0") == 1, "the same exits"
    ran.clear()
    predictor.change(Plan("anytime", (second, final)))
    assert predictor(noise, deadline_ms=60_000).exit == final
    assert ran.count("stage 0") > 10, "warmed up"


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan("budgeted", ()), "got none"),
        (Plan("budgeted", ("nowhere",)), "got nowhere"),
        (Plan("anytime", ("final", "blocks.1.0:fcn/c64")), "in order of depth"),
        (Plan("input-dependent", ("blocks.1.0:fcn/c64", "final")), "need 1 image thresholds, got 0"),
        (Plan("anytime", ("blocks.1.0:fcn/c64", "final"), image_thresholds=(0.5,)), "need 0 image thresholds, got 1"),
        (Plan("input-dependent", ("final",), pixel_threshold=GRID), "from 0 to 31, got 32"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(decided_package, noise, plan, said):
    predictor = Predictor(decided_package, threads=1, every_exit=True)
    with pytest.raises(InputError, match=said):
        predictor.change(plan)
    assert predictor(noise).exit == "final", "the plan before holds"


def test_only_loaded_exits_can_be_planned(decided_package):
    predictor = Predictor(decided_package, threads=1)
    with pytest.raises(InputError, match="of final; got blocks"):
        predictor.change(Plan("budgeted", ("blocks.1.0:fcn/c64",)))


# ---------------------------------------------------------------------------------------------------------------- openvino


def test_openvino_says_the_same(package, scenes):
    pytest.importorskip("openvino")
    ours = Predictor(package, threads=1, mode="anytime")
    other = Predictor(package, threads=1, mode="anytime", engine="openvino")
    for path in sorted((scenes / "test" / "images").iterdir()):
        # Pillow's arrays are read-only; sizes other than the package's come out of Pillow too.
        for image in (path, Image.open(path).resize((70, 50))):
            pairs = list(zip(ours.refine(image), other.refine(image), strict=True))
            assert len(pairs) == 3
            for wanted, got in pairs:
                assert got.exit == wanted.exit
                assert (got.labels == wanted.labels).mean() > 0.99
                np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-4)
