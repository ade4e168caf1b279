// Drives a farm with the unmodified Node SDK: OPENAI_BASE_URL and OPENAI_API_KEY say which, CLIP where to save.
// The argument names the package, because two versions are installed side by side.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';

const name = process.argv[2];
const { default: OpenAI } = await import(name);
const pinned = JSON.parse(await readFile(`node_modules/${name}/package.json`, 'utf8'));
console.log('openai', pinned.version);
const client = new OpenAI();

let video = await client.videos.create({
  prompt: 'a blue cube drops',
  model: 'sora-2',
  seconds: '4',
  size: '720x1280',
});
assert.match(video.id, /^video_[0-9a-z]+$/);
assert.deepEqual([video.object, video.model, video.seconds, video.size], ['video', 'sora-2', '4', '720x1280']);

const seen = [video.progress];
const deadline = Date.now() + 120_000;
while (['queued', 'in_progress'].includes(video.status)) {
  assert(Date.now() < deadline, JSON.stringify(video));
  await new Promise((done) => setTimeout(done, 100));
  video = await client.videos.retrieve(video.id);
  seen.push(video.progress);
}
assert.equal(video.status, 'completed', JSON.stringify(video));
assert.deepEqual(seen, [...seen].sort((a, b) => a - b));
assert.equal(seen.at(-1), 100);

const second = await client.videos.create({ prompt: 'a red ball', seed: 7 });
assert.equal(second.seed, 7);
const page = await client.videos.list({ limit: 1 });
assert.equal(page.data[0].id, second.id);
const all = [];
for await (const one of client.videos.list({ limit: 1 })) all.push(one.id);
assert.deepEqual(all, [second.id, video.id]);

const content = await client.videos.downloadContent(video.id);
await writeFile(process.env.CLIP, Buffer.from(await content.arrayBuffer()));
const thumbnail = await client.videos.downloadContent(video.id, { variant: 'thumbnail' });
assert.equal(Buffer.from(await thumbnail.arrayBuffer()).subarray(8, 12).toString(), 'WEBP');

const gone = await client.videos.delete(video.id);
assert.deepEqual([gone.id, gone.deleted], [video.id, true]);
await assert.rejects(client.videos.retrieve(video.id), (error) => error instanceof OpenAI.NotFoundError);
await assert.rejects(
  client.videos.create({ prompt: '' }),
  (error) => error instanceof OpenAI.BadRequestError && error.code === 'invalid_value' && error.param === 'prompt',
);
await assert.rejects(
  new OpenAI({ apiKey: 'wrong' }).videos.list(),
  (error) => error instanceof OpenAI.AuthenticationError && error.code === 'invalid_api_key',
);
console.log('all good');
