// BullMQ's own Queue, QueueEvents and Worker, and bull-board, told what to do: a JSON array a line, answered by a line.
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import { Queue, QueueEvents, Worker } from 'bullmq';
import express from 'express';
import { Cluster } from 'ioredis';

const [port, name, clusterPrefix] = process.argv.slice(2);
const node = { host: '127.0.0.1', port: Number(port), maxRetriesPerRequest: null };
const options = clusterPrefix
  ? { connection: new Cluster([node]), prefix: clusterPrefix }
  : { connection: node };
const queue = new Queue(name, options);
const events = new QueueEvents(name, options);
const heard = [];
for (const kind of ['active', 'progress', 'completed', 'failed']) {
  events.on(kind, (said) => heard.push([kind, said.jobId, said.data ?? null]));
}
for (const part of [queue, events]) part.on('error', () => {});
await events.waitUntilReady();
let worker;

async function board() {
  const serverAdapter = new ExpressAdapter();
  createBullBoard({ queues: [new BullMQAdapter(queue)], serverAdapter });
  const server = express().use(serverAdapter.getRouter()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server.address().port;
}

async function done(job, result, progress) {
  await job.updateProgress(progress);
  return { ...result, saw: job.data };
}

const verbs = {
  add: async (data, opts) => (await queue.add('transcribe', data, opts)).id,
  async look(id) {
    const state = await queue.getJobState(id); // before the rest, which then fits it
    const job = await queue.getJob(id);
    return job && { ...job.toJSON(), state };
  },
  counts: () => queue.getJobCounts(),
  countsOf: (priorities) => queue.getCountsPerPriority(priorities),
  pause: () => queue.pause(),
  resume: () => queue.resume(),
  remove: (id) => queue.remove(id),
  retry: async (id) => (await queue.getJob(id)).retry(),
  heard: () => heard,
  board,
  async work(result, progress = 100) {
    worker = new Worker(name, (job) => done(job, result, progress), options);
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
