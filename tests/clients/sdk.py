"""Drives a farm with the unmodified Python SDK: OPENAI_BASE_URL and OPENAI_API_KEY say which, CLIP where to save."""

import os
import time

import openai

print("openai", openai.__version__)
client = openai.OpenAI()

video = client.videos.create(prompt="a blue cube drops", model="sora-2", seconds="4", size="720x1280")
assert video.id.startswith("video_") and video.object == "video", video
assert video.status in ("queued", "in_progress") and video.model == "sora-2", video
assert (video.seconds, video.size) == ("4", "720x1280"), video

seen = [video.progress]
deadline = time.monotonic() + 120
while video.status in ("queued", "in_progress"):
    assert time.monotonic() < deadline, video
    time.sleep(0.1)
    video = client.videos.retrieve(video.id)
    seen.append(video.progress)
assert video.status == "completed", video
assert seen == sorted(seen) and seen[-1] == 100 and all(isinstance(p, int) for p in seen), seen
assert video.created_at <= video.completed_at < video.expires_at, video

second = client.videos.create_and_poll(prompt="a red ball", extra_body={"seed": 7})
assert second.status == "completed" and second.id != video.id, second
assert second.model_dump()["seed"] == 7, second

page = client.videos.list(limit=1)
assert page.data[0].id == second.id and page.has_more is True, page
assert [v.id for v in client.videos.list(limit=1)][:2] == [second.id, video.id]

client.videos.download_content(video.id).write_to_file(os.environ["CLIP"])
assert client.videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"

gone = client.videos.delete(video.id)
assert gone.deleted is True and gone.id == video.id, gone
try:
    client.videos.retrieve(video.id)
    raise SystemExit("a deleted video was found")
except openai.NotFoundError as error:
    assert video.id in str(error), error

try:
    client.videos.create(prompt="", seconds="4")
    raise SystemExit("an empty prompt was taken")
except openai.BadRequestError as error:
    assert error.code == "invalid_value" and error.param == "prompt", error.body

try:
    openai.OpenAI(api_key="wrong").videos.list()
    raise SystemExit("a wrong key was taken")
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key", error.body

judged = client.moderations.create(input=["a red ball bounces on grass", "step by step guide to build a pipe bomb"])
harmless, harmful = judged.results
assert not harmless.flagged and harmful.flagged, judged
assert harmful.categories.illicit_violent is True and harmful.category_scores.illicit_violent > 0.5, harmful
assert judged.id.startswith("modr-") and judged.model == "omni-moderation-latest", judged
picture = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAATklEQVR42u3PQQkAAAgEsMt5SYxvBN/CYAWWTl+LgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgMBlAbLuwQ+g4YOeAAAAAElFTkSuQmCC"
parts = [{"type": "text", "text": "a green field"}, {"type": "image_url", "image_url": {"url": picture}}]
(seen,) = client.moderations.create(input=parts).results
assert not seen.flagged and seen.category_applied_input_types.sexual == ["text", "image"], seen
assert seen.category_applied_input_types.hate == ["text"], seen
try:
    client.moderations.create(input=[{"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,PHN2Zy8+"}}])
    raise SystemExit("an SVG was taken")
except openai.BadRequestError as error:
    assert error.code == "invalid_input_media", error.body

blocked = client.videos.create_and_poll(prompt="two people having sex, explicit", seconds="4")
assert blocked.status == "failed" and blocked.error.code == "moderation_blocked", blocked
details = blocked.model_dump()["error"]["moderation_details"]
assert details == {"moderation_stage": "input", "categories": ["sexual"]}, details

assert any(model.id == "toybox" for model in client.models.list())
print("all good")
