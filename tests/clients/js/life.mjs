// The life of a video by the OpenAI JavaScript client, changed in base URL and key only (both from the environment).
// Prints one JSON object a line. Whoever started it lets the render end when it has read `created`.
import OpenAI, { NotFoundError, BadRequestError, toFile } from "openai";

const client = new OpenAI();
const say = (name, value) => console.log(JSON.stringify({ [name]: value }));
const picture = Buffer.from(process.env.PICTURE, "base64");

const refused = async (call) => {
  try {
    await call();
    return null;
  } catch (error) {
    return {
      code: error.code, param: error.param, status: error.status, message: error.message,
      is_known: error instanceof NotFoundError || error instanceof BadRequestError,
    };
  }
};

const plain = await client.videos.create({ prompt: "a fox", seconds: "5", size: "1280x720" });
const video = await client.videos.create(
  { prompt: "a fox", input_reference: await toFile(picture, "fox.png", { type: "image/png" }) },
  { headers: { "Idempotency-Key": "js" } },
);
const again = await client.videos.create(
  { prompt: "a fox", input_reference: await toFile(picture, "fox.png", { type: "image/png" }) },
  { headers: { "Idempotency-Key": "js" } },
);
const rich = await client.videos.create({
  shots: [{ prompt: "a fox", duration: 2 }, { prompt: "a hen", duration: 3 }], resolution: "1080p",
  audio: true, metadata: { team: "x", "a[b]": "c" }, provider: ["highway", "narrow"],
});
say("created", { id: video.id, again: again.id, image: video.request.image, plain: plain.size, rich: rich.request });
say("metadata", rich.metadata);

let seen = video;
let asked = 0;
while (seen.status === "queued" || seen.status === "in_progress") {
  const { data, response } = await client.videos.retrieve(video.id).withResponse();
  seen = data;
  asked += 1;
  if (seen.status !== "completed") {
    const pause = Number(response.headers.get("openai-poll-after-ms"));
    await new Promise((resolve) => setTimeout(resolve, Math.min(pause, 100)));
  }
}
say("ended", { status: seen.status, asked });

const ids = [];
for await (const each of client.videos.list({ limit: 1 })) ids.push(each.id);
say("listed", ids);
const content = Buffer.from(await (await client.videos.downloadContent(video.id)).arrayBuffer());
say("content", { bytes: content.length, is_mp4: content.subarray(4, 8).toString() === "ftyp" });
say("no_thumbnail", await refused(() => client.videos.downloadContent(video.id, { variant: "thumbnail" })));
say("deleted", await client.videos.delete(video.id));
say("gone", await refused(() => client.videos.retrieve(video.id)));
say("wrong", await refused(() => client.videos.create({ prompt: "a fox", seconds: "99" })));

const file = await client.files.create({ file: await toFile(picture, "fox.png"), purpose: "vision" });
const named = await client.videos.create({ prompt: "a fox", input_reference: { file_id: file.id } });
say("uploaded", { bytes: file.bytes, image: named.request.image, deleted: await client.files.delete(file.id) });
say("models", (await client.models.list()).data.map((model) => model.id));
