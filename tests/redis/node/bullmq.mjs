// BullMQ's own Queue, QueueEvents and Worker, told what to do: a JSON array a line, answered by a line.
import { createInterface } from 'node:readline';
import { Queue, QueueEvents, Worker } from 'bullmq';

const [port, name] = process.argv.slice(2);
const connection = { host: '127.0.0.1', port: Number(port), maxRetriesPerRequest: null };
const queue = new Queue(name, { connection });
const events = new QueueEvents(name, { connection });
const heard = [];
for (const kind of ['active', 'progress', 'completed', 'failed']) {
  events.on(kind, (said) => heard.push([kind, said.jobId, said.data ?? null]));
}
for (const part of [queue, events]) part.on('error', () => {});
await events.waitUntilReady();
let worker;

const verbs = {
  add: async (data, opts) => (await queue.add('transcribe', data, opts)).id,
  async look(id) {
    const job = await queue.getJob(id);
    return job && { ...job.toJSON(), state: await job.getState() };
  },
  counts: () => queue.getJobCounts(),
  pause: () => queue.pause(),
  resume: () => queue.resume(),
  remove: (id) => queue.remove(id),
  retry: async (id) => (await queue.getJob(id)).retry(),
  heard: () => heard,
  async work(result) {
    worker = new Worker(name, async (job) => ({ ...result, saw: job.data }), { connection });
    worker.on('error', () => {});
    await worker.waitUntilReady();
  },
  async end() {
    await worker?.close();
    worker = undefined;
  },
};

console.log('null');
for await (const line of createInterface({ input: process.stdin })) {
  const [verb, ...args] = JSON.parse(line);
  const answer = await Promise.resolve(verbs[verb](...args)).then(
    (value) => ({ value: value ?? null }),
    (error) => ({ error: error.message }),
  );
  console.log(JSON.stringify(answer));
}
process.exit(0);
