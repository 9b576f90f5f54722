"""The model's parts: image, assignment, boxes, conditions, sampling, checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from traffic import traffic

from sdiff import KINDS, VEHICLE_KINDS, raster
from sdiff.geometry import box_corners, boxes_overlap
from sdiff.model import checkpoint
from sdiff.model.autoencoder import Autoencoder
from sdiff.model.batch import T0, TIMES_S, SceneBatch, pack, scene_batch
from sdiff.model.conditioning import from_scenes, from_tokens, scene_numbers, token_scenes, unnamed
from sdiff.model.detection import HEAD_CHANNELS, arcs, assign, detect, detection_loss, read_head, suppressed
from sdiff.model.draw import centred, covered_pixels, painted, write
from sdiff.model.lane_frame import lane_direction, lane_field
from sdiff.model.recipe import AutoencoderConfig, DenoiserConfig, Recipe, TrainConfig
from sdiff.model.scenario_model import ScenarioModel, keyed_noise
from sdiff.model.training import AutoencoderStage, DenoiserStage, TrainState
from sdiff.scene import AGENT_CHANNELS, MAP_CHANNELS, SCENE_NUMBERS, STEPS_PAST, Agents, AgentTokens, SceneToken
from sdiff.tokens import agent_tokens, scene_token

TINY = Recipe(
    name="tiny",
    autoencoder=AutoencoderConfig(latent_channels=4, width=16, map_width=16),
    denoiser=DenoiserConfig(widths=(16, 16, 16), map_width=16, token_width=16, heads=2),
)


def crowd(n: int, seed: int) -> Agents:
    """n agents at random poses, sizes and speeds; some at the window's edge, some on top of each other."""
    rng = np.random.default_rng(seed)
    heading = rng.uniform(-np.pi, np.pi, n)
    agents = traffic(
        x_m=rng.uniform(-50, 50, n),
        y_m=rng.uniform(-50, 50, n),
        heading_rad=heading,
        speed_mps=rng.uniform(0, 15, n),
        length_m=rng.uniform(0.5, 14, n),
        width_m=rng.uniform(0.4, 2.6, n),
    )
    return replace(agents, kind=rng.integers(0, len(KINDS), n).astype(np.int8))


def maps(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, len(MAP_CHANNELS), 256, 256), np.uint8)


def dense_image(scenes: SceneBatch) -> np.ndarray:
    """(B, 256, 256, IMAGE_CHANNELS), laid out from the covered pixels."""
    values = painted(scenes)
    image = torch.zeros(len(values), 256, 256, values.shape[-1])
    pixels = covered_pixels(scenes)
    image[pixels.scene, pixels.row, pixels.column] = values[pixels.scene, pixels.agent]
    return image.numpy()


def test_the_image_drawn_in_training_is_the_image_in_the_table() -> None:
    for seed in range(5):
        agents = crowd(20, seed)
        table = raster.agent_bev(agents).astype(float)
        drawn = dense_image(scene_batch(pack([agents])))[0]
        occupied = table[AGENT_CHANNELS.index("occupancy")] > 0
        # Training draws in float32, the table in float64: a pixel centre on a box's edge may fall either way.
        assert (occupied != (drawn[..., 0] > 0)).mean() < 1e-4
        both = occupied & (drawn[..., 0] > 0)
        kind = drawn[..., 3 : 3 + len(KINDS)].argmax(-1) + 1
        assert (kind[both] == table[AGENT_CHANNELS.index("kind")][both]).mean() > 0.999
        columns = {"sin": 1, "cos": 2, **{n: 3 + len(KINDS) + i for i, n in enumerate(AGENT_CHANNELS[4:])}}
        for name, column in columns.items():
            stored = (table[AGENT_CHANNELS.index(name)] - 128) / 127
            away = np.abs(stored - drawn[..., column])[both]
            assert np.quantile(away, 0.999) < 0.5 / 127 + 1e-4, name


def test_what_is_written_balances_at_its_place_up_to_the_edge() -> None:
    xy = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 100 - 50
    xy[:2] = torch.tensor([[50.0, -50.0], [0.0, -49.9]])
    image = write(torch.eye(30), torch.tensor([0, 1]).repeat(15), xy, n_scenes=2, cells=64)
    axis = 50 - (torch.arange(64) + 0.5) * 100 / 64
    for i in range(30):
        one = image[i % 2, i]
        assert one.sum() == pytest.approx(1, abs=1e-5) and 1 <= int((one != 0).sum()) <= 4
        assert float(one.sum(1) @ axis) == pytest.approx(float(xy[i, 0]), abs=1e-3)
        assert float(one.sum(0) @ axis) == pytest.approx(float(xy[i, 1]), abs=1e-3)
        assert not image[1 - i % 2, i].any()


def test_a_vehicle_that_follows_its_lane_is_the_same_in_every_street() -> None:
    turn = np.linspace(-3, 3, 7)
    features = []
    for angle in turn:
        street = np.zeros((1, len(MAP_CHANNELS), 256, 256), np.uint8)
        street[:, MAP_CHANNELS.index("lane_cos")] = round(128 + 127 * np.cos(angle))
        street[:, MAP_CHANNELS.index("lane_sin")] = round(128 + 127 * np.sin(angle))
        agents = traffic(x_m=np.zeros(1), y_m=np.zeros(1), heading_rad=np.full(1, angle), speed_mps=np.full(1, 8.0))
        scenes = scene_batch(pack([agents]))
        features.append(centred(scenes, lane_field(torch.from_numpy(street)))[0].numpy())
    assert np.ptp(features, axis=0).max() < 0.03


def test_directions_come_from_the_lane_from_lanes_near_by_or_from_none() -> None:
    image = np.full((1, len(MAP_CHANNELS), 256, 256), 128, np.uint8)
    lane_sin = image[:, MAP_CHANNELS.index("lane_sin")]
    lane_sin[:, :, :128] = 255  # a lane to the left on the left half
    lane_sin[:, ::2, 64:128] = 1  # and where it meets another one, none
    lane_sin[:, :, 224:] = 255  # a lane on the far right
    places = torch.tensor([[[30.0, 40.0], [30.0, -34.0], [30.0, 12.0], [30.0, -14.0]]])
    left, forward = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    on_lane, beside, cancelled, far = lane_direction(lane_field(torch.from_numpy(image)), places)[0]
    assert torch.allclose(on_lane, left, atol=0.06) and torch.allclose(beside, left, atol=0.06)
    assert torch.allclose(cancelled, forward, atol=0.06) and torch.allclose(far, forward, atol=0.06)


def test_the_latents_of_a_scene_are_the_sum_of_what_each_agent_writes() -> None:
    autoencoder = Autoencoder(TINY.autoencoder)
    agents, map_bev = crowd(8, 5), torch.from_numpy(maps(1))

    def written(which: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            return autoencoder.encode(scene_batch(pack([agents.take(which)])), map_bev).mean

    empty = written(np.zeros(0, int))
    alone = sum(written(np.array([i])) - empty for i in range(8))
    assert torch.allclose(written(np.arange(8)) - empty, alone, atol=1e-4)
    at_m = np.array([agents.x_m[0, STEPS_PAST], agents.y_m[0, STEPS_PAST]])
    touched = (written(np.array([0])) != empty).any(1)[0].nonzero().numpy()
    assert 1 <= len(touched) <= 4
    assert (np.abs(50 - (touched + 0.5) * 100 / 32 - at_m) < 0.75 * 100 / 32 + 0.01).all()


def test_no_two_boxes_share_a_cell() -> None:
    agents = [crowd(40, seed) for seed in range(4)]
    for a in agents:
        a.x_m[:6] = a.x_m[:1]  # six agents in one place
        a.y_m[:6] = a.y_m[:1]
    scenes = scene_batch(pack(agents))
    cells = assign(read_head(torch.randn(4, HEAD_CHANNELS, 64, 64)), scenes)
    for cell, real in zip(cells, scenes.real, strict=True):
        assert len(set(cell[real].tolist())) == int(real.sum())


def test_boxes_drop_until_none_overlap() -> None:
    head = torch.randn(2, HEAD_CHANNELS, 64, 64)
    head[:, 0] -= 1.5
    for found in detect(read_head(head)):
        x, y, heading = found.pose[:, T0].T
        corners = box_corners(x, y, heading, *found.size.T)
        overlap = boxes_overlap(corners[:, None], corners[None]) & ~np.eye(len(corners), dtype=bool)
        nobody = np.zeros(len(corners), bool)
        stay = suppressed(found, nobody)
        assert stay.sum() > 10
        assert not overlap[stay][:, stay].any()
        assert all(overlap[i, :i][stay[:i]].any() for i in np.flatnonzero(~stay)), "a more probable one is in its way"
        asked = nobody.copy()
        asked[np.flatnonzero(~stay)[-1]] = True
        assert suppressed(found, asked)[asked].all(), "who was asked for stays"


def test_an_autoencoder_learns_a_scene_by_heart() -> None:
    torch.manual_seed(0)
    agents = traffic(
        x_m=np.array([0.0, 12.0, -9.0]),
        y_m=np.array([0.0, 3.5, -3.5]),
        heading_rad=np.zeros(3),
        speed_mps=np.full(3, 8.0),
    )
    scenes, image = (
        scene_batch(pack([agents], max_agents=4)),
        torch.zeros(1, len(MAP_CHANNELS), 256, 256, dtype=torch.uint8),
    )
    autoencoder = Autoencoder(TINY.autoencoder)
    stage, state = (
        AutoencoderStage(autoencoder),
        TrainState(autoencoder, TrainConfig(steps=200, warmup=10)),
    )
    for _ in range(200):
        state.update(stage(scenes, image)["loss"])
    with torch.no_grad():
        found = detect(autoencoder.decode(autoencoder.encode(scenes, image).mean, autoencoder.look(image)))[0]
    order = np.argsort(found.pose[:, T0, 0])
    assert found.pose[order][:, T0, 0] == pytest.approx([-9.0, 0.0, 12.0], abs=0.5)
    assert found.pose[order][:, -1, 0] == pytest.approx([7.0, 16.0, 28.0], abs=1.5)


def head_of_one(*steps: tuple[float, float, float]) -> torch.Tensor:
    """A head's output in whose first cell an agent heads to 2 rad and takes these steps last, before `pressed`."""
    head = torch.zeros(1, HEAD_CHANNELS, 64, 64)
    head[:, 3], head[:, 4] = np.cos(2.0), np.sin(2.0)
    head[:, -3 * len(steps) :] = torch.tensor(steps).flatten()[None, :, None, None]
    return head


def test_steps_go_along_the_heading_of_their_box() -> None:
    pose = read_head(head_of_one((0.85, 0.0, 0.0), (0.45, 0.0, 0.0))).pose[0, 0]
    ahead = torch.tensor([np.cos(2.0), np.sin(2.0)], dtype=torch.float32)
    assert torch.allclose(pose[-2, :2] - pose[T0, :2], 4 * ahead, atol=1e-4)
    assert torch.allclose(pose[-1, :2] - pose[T0, :2], 6 * ahead, atol=1e-4)
    assert torch.equal(pose[0, :2], pose[T0, :2])


def test_steps_follow_the_arc_that_the_box_turns_on() -> None:
    """A quarter circle in two steps ends where a quarter circle ends: as far ahead as to the side."""
    chord = 2 * 10 * np.sin(np.pi / 8) / 5  # of 45 degrees of a circle of 10 m
    pose = read_head(head_of_one(*[(chord + 0.05, 0.0, np.pi / 4 + 0.02)] * 2)).pose[0, 0]
    ahead, left = torch.tensor([np.cos(2.0), np.sin(2.0)]), torch.tensor([-np.sin(2.0), np.cos(2.0)])
    way = (pose[-1, :2] - pose[T0, :2]).double()
    assert [float(way @ ahead), float(way @ left)] == pytest.approx([10.0, 10.0], abs=1e-4)
    assert float(pose[-1, 2] - pose[T0, 2]) == pytest.approx(np.pi / 2, abs=1e-5)
    told = arcs(pose)[-2:]
    assert told.tolist() == [pytest.approx([5 * chord, 0.0, np.pi / 4], abs=1e-4)] * 2


def test_a_parked_car_stays_where_its_steps_are_a_little_off() -> None:
    pose = read_head(head_of_one(*[(0.02, -0.01, 0.01)] * 4)).pose[0, 0]  # as it stands: 0.4 m and 0.04 rad in 2 s
    assert float((pose[-1, :2] - pose[T0, :2]).norm()) < 0.05
    assert abs(float(pose[-1, 2] - pose[T0, 2])) < 0.005


def test_a_kind_that_training_does_not_name_is_still_true() -> None:
    kind = torch.arange(len(KINDS)).repeat(1000, 1)
    said = unnamed(kind, torch.Generator().manual_seed(0))
    other = said != kind
    for i, name in enumerate(KINDS):
        vague = "vehicle" if name in VEHICLE_KINDS else "other"
        assert set(said[:, i][other[:, i]].tolist()) <= {KINDS.index(vague)}
        assert name == vague or 0.05 < float(other[:, i].float().mean()) < 0.15


def test_what_training_drops_is_not_given() -> None:
    scenes = scene_batch(pack([crowd(30, seed) for seed in range(16)]))
    conditions = from_scenes(scenes, torch.Generator().manual_seed(0))
    assert not (conditions.given & ~conditions.used[..., None]).any()
    assert (conditions.numbers[~conditions.given] == 0).all()
    assert not (conditions.used & ~scenes.real).any()
    # A scene whose p_mask is 0 keeps all of its tokens.
    whole = conditions.p_mask == 0
    assert whole.any()
    assert torch.equal(conditions.used[whole], scenes.real[whole])


def test_training_says_of_a_scene_what_a_log_says() -> None:
    street = traffic([0.0, 9.0, 18.0, 27.0], 0.0, 0.0, [6.0, 2.0, 0.0, 1.0], kind=["car", "bus", "car", "cyclist"])
    parked = traffic([0.0, 9.0], 0.0)
    found = scene_numbers(scene_batch(pack([street, parked])))
    for row, agents in zip(found, (street, parked), strict=True):
        said = scene_token(agents)
        assert row.tolist() == pytest.approx([getattr(said, name) for name in SCENE_NUMBERS], nan_ok=True)
    conditions = from_scenes(scene_batch(pack([parked] * 64)), torch.Generator().manual_seed(0))
    assert not conditions.scene_given[:, SCENE_NUMBERS.index("mean_speed_mps")].any()  # nobody moves


def test_a_quarter_of_the_training_scenes_is_free() -> None:
    scenes = scene_batch(pack([crowd(4, 0)] * 4000, max_agents=4))
    p_mask = from_scenes(scenes, torch.Generator().manual_seed(0)).p_mask
    assert float((p_mask == 1).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((p_mask == 0).float().mean()) == pytest.approx(0.15, abs=0.03)
    published = from_scenes(scenes, torch.Generator().manual_seed(0), as_published=True).p_mask
    assert float((published == 0).float().mean()) == pytest.approx(0.4, abs=0.03)


def test_a_speed_leads_to_where_the_agent_is_half_a_second_later() -> None:
    tokens = AgentTokens.unspecified(1)
    for name, value in {"x_m": 10.0, "y_m": 5.0, "heading_rad": np.pi / 2, "speed_mps": 6.0}.items():
        getattr(tokens, name)[0] = value
    told = token_scenes(from_tokens([tokens], [SceneToken()], max_tokens=1), torch.zeros(1, 2, 64, 64))
    assert told.seen[0, 0].nonzero()[:, 0].tolist() == [T0 - 1, T0, T0 + 1]
    assert told.pose[0, 0, T0 + 1].tolist() == pytest.approx([10.0, 8.0, np.pi / 2])


def test_a_network_that_says_nothing_leaves_the_described_agents() -> None:
    """At noise that hides everything, what the tokens say is all there is."""
    torch.manual_seed(0)
    model = ScenarioModel(TINY).eval()
    torch.nn.init.zeros_(model.denoiser.last[-1].weight)
    torch.nn.init.zeros_(model.denoiser.last[-1].bias)
    agents = traffic([0.0, 20.0], [0.0, 8.0], 0.0, 8.0)
    map_bev = torch.from_numpy(maps(1))
    conditions = from_tokens([agent_tokens(agents)], [SceneToken()])
    context = model.denoiser.context(map_bev, conditions, model.autoencoder)
    told = token_scenes(conditions, lane_field(map_bev))
    latents = model.denoiser.scale(model.autoencoder.encode(told, map_bev).mean)
    sigma = 80.0
    noisy = latents + sigma * torch.randn_like(latents)
    with torch.no_grad():
        denoised = model.denoiser(noisy, torch.tensor([sigma]), context)
        assert float((denoised - latents).abs().max()) < 0.05


def test_unspecified_is_not_zero() -> None:
    stated, silent = AgentTokens.unspecified(1), AgentTokens.unspecified(1)
    stated.speed_mps[0] = 0.0
    conditions = from_tokens([stated, silent], [SceneToken(), SceneToken()])
    model = ScenarioModel(TINY).eval()
    token, _, _ = model.denoiser.tokens(conditions, torch.ones(2, 2, 64, 64))
    assert not torch.allclose(token[0, 0], token[1, 0])


def test_noise_depends_on_its_key_alone() -> None:
    shape = (4, 32, 32)
    assert np.array_equal(keyed_noise((1, "a", 0), shape), keyed_noise((1, "a", 0), shape))
    for other in ((2, "a", 0), (1, "b", 0), (1, "a", 1)):
        assert abs(np.corrcoef(keyed_noise((1, "a", 0), shape).ravel(), keyed_noise(other, shape).ravel())[0, 1]) < 0.1


def test_sampling_again_gives_the_same_agents() -> None:
    torch.manual_seed(0)
    model = ScenarioModel(TINY).eval()
    torch.nn.init.normal_(model.autoencoder.head[-1].weight)  # scores that differ from cell to cell, some above a half
    torch.nn.init.constant_(model.autoencoder.head[-1].bias, -0.2)
    ego = AgentTokens.unspecified(1)
    keys = [(7, f"s{i}", 0) for i in range(2)]
    once, again = (model.sample(maps(2), [ego] * 2, [SceneToken()] * 2, keys, steps=3) for _ in range(2))
    for (a, found), (b, _) in zip(once, again, strict=True):
        assert len(found) >= len(a) > 0
        assert np.array_equal(a.x_m, b.x_m)
        assert a.x_m.shape == (len(a), 41)
        assert a.is_ego.sum() <= 1


def test_a_checkpoint_comes_back_as_it_was(tmp_path: object) -> None:
    model = ScenarioModel(TINY).eval()
    uri = f"{tmp_path}/model"
    checkpoint.save(uri, model.state_dict(), {"recipe": TINY.to_json()})
    loaded = checkpoint.load(uri)
    assert loaded.recipe == TINY and loaded.trained_maps == frozenset(), "of a checkpoint that names none"
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_a_checkpoint_with_other_weights_is_refused(tmp_path: object) -> None:
    uri = f"{tmp_path}/model"
    checkpoint.save(uri, ScenarioModel(TINY).state_dict(), {"recipe": TINY.to_json()})
    with open(f"{uri}/model.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(checkpoint.CheckpointError, match="is not the file that"):
        checkpoint.load(uri)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint at"):
        checkpoint.load(f"{tmp_path}/nowhere")


def test_a_resumed_run_goes_on_as_if_never_stopped() -> None:
    scenes, image = scene_batch(pack([crowd(6, 0)])), torch.from_numpy(maps(1))
    config = TrainConfig(steps=6, warmup=2)

    def steps(state: TrainState, n: int) -> TrainState:
        for _ in range(n):
            torch.manual_seed(state.step)
            state.update(AutoencoderStage(state.trained)(scenes, image)["loss"])  # type: ignore[arg-type]
        return state

    def fresh() -> TrainState:
        torch.manual_seed(0)
        return TrainState(Autoencoder(TINY.autoencoder), config)

    through = steps(fresh(), 6)
    half = steps(fresh(), 3)
    resumed = TrainState(Autoencoder(TINY.autoencoder), config)
    resumed.restore(half.step, {k: v.clone() for k, v in half.tensors().items()})
    steps(resumed, 3)
    for name, value in through.tensors().items():
        assert torch.allclose(value, resumed.tensors()[name], atol=1e-6), name


def test_a_recipe_with_an_unknown_key_names_it() -> None:
    with pytest.raises(ValueError, match=r"autoencoder\.widht"):
        Recipe.from_json({"autoencoder": {"widht": 3}})


def test_both_stages_train_in_bfloat16() -> None:
    """As on a GPU, where a step runs under autocast."""
    torch.manual_seed(0)
    model = ScenarioModel(TINY)
    scenes, map_bev = scene_batch(pack([crowd(8, 0), crowd(8, 1)])), torch.from_numpy(maps(2))
    for begin in (
        lambda: AutoencoderStage(model.autoencoder),
        lambda: DenoiserStage(model.denoiser, model.autoencoder),
    ):
        stage = begin()  # one after the other: the second freezes the autoencoder
        with torch.autocast("cpu", torch.bfloat16):
            loss = stage(scenes, map_bev)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        assert any(float(p.grad.abs().max()) > 0 for p in stage.trained.parameters() if p.grad is not None)


def test_losses_are_finite_for_an_empty_scene() -> None:
    empty = crowd(3, 0).take(np.zeros(0, int))
    terms = detection_loss(read_head(torch.randn(1, HEAD_CHANNELS, 64, 64)), scene_batch(pack([empty])))
    assert torch.isfinite(terms.total())
    assert STEPS_PAST == 20


def test_a_whole_token_is_encoded_as_its_agent_is() -> None:
    """But for the waypoints that a token does not say: it leads half a second on from t0, and to the end."""
    agents = traffic([0.0, 20.0, -9.0], [0.0, 8.0, -3.5], [0.0, 2.0, -0.5], 8.0, kind=["car", "pedestrian", "bus"])
    tokens = agent_tokens(agents)
    lanes = lane_field(torch.from_numpy(maps(1)))
    told = token_scenes(from_tokens([tokens], [SceneToken()], max_tokens=4), lanes)
    true = scene_batch(pack([agents], max_agents=4))
    assert torch.equal(told.real, true.real) and torch.equal(told.kind[told.real], true.kind[true.real])
    assert torch.allclose(told.pose[told.real], true.pose[true.real], atol=1e-4)
    assert torch.allclose(told.size[told.real], true.size[true.real])
    assert told.seen[told.real].tolist() == [[False, False, False, True, True, True, False, True, True]] * 3


def test_what_a_token_does_not_say_is_as_most_have_it() -> None:
    tokens = AgentTokens.unspecified(2)
    tokens.x_m[0], tokens.y_m[0], tokens.kind[0] = 10.0, 5.0, KINDS.index("bus")
    lanes = torch.zeros(1, 2, 64, 64)
    lanes[:, 1] = 1.0  # every lane goes to the left
    told = token_scenes(from_tokens([tokens], [SceneToken()], max_tokens=2), lanes)
    assert told.real.tolist() == [[True, False]]  # nowhere is no place
    assert told.pose[0, 0].tolist() == [pytest.approx([10.0, 5.0, np.pi / 2])] * len(TIMES_S)
    assert told.size[0, 0].tolist() == [12.0, 2.5]


def test_two_speeds_lead_to_the_end_that_they_imply() -> None:
    tokens = AgentTokens.unspecified(2)
    tokens.x_m[:], tokens.y_m[:], tokens.heading_rad[:], tokens.end_speed_mps[:] = 0.0, 0.0, np.pi / 2, 8.0
    tokens.speed_mps[0] = 0.0
    told = token_scenes(from_tokens([tokens], [SceneToken()], max_tokens=2), torch.zeros(1, 2, 64, 64))
    from_standing, speed_open = told.pose[0]
    assert from_standing[0].tolist() == pytest.approx([0.0, 0.0, np.pi / 2], abs=1e-5)  # it stood before, too
    assert from_standing[-1].tolist() == pytest.approx([0.0, 8.0, np.pi / 2], abs=1e-5)  # half of 8 m/s for 2 s
    assert told.seen[0, 0, -1]
    assert speed_open[-1].tolist() == pytest.approx([0.0, 16.0, np.pi / 2], abs=1e-5)
    assert not told.seen[0, 1, -1]
