// BullMQ on the Redis at the port that is the last argument: the other side of queues.py.
import { createInterface } from "node:readline";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const NAME = "tasks";
const PAGE = 50;
const connection = { host: "127.0.0.1", port: Number(process.argv.at(-1)), maxRetriesPerRequest: null };
const redis = new Redis(connection);
const queue = new Queue(NAME, { connection });
const TASK = { audio: "call.wav", size: 1_000_000, sha256: "0".repeat(64), model: "tiny.en", tenant: "default" };
const now = () => performance.now() / 1000;

/** Processor seconds of this process and of Redis. */
async function cpu() {
  const spent = process.cpuUsage();
  const info = await redis.info("cpu");
  const of = (name) => Number(info.match(new RegExp(`${name}:([\\d.]+)`))[1]);
  return (spent.user + spent.system) / 1e6 + of("used_cpu_user") + of("used_cpu_sys");
}

async function counted(run) {
  const before = await cpu();
  const began = now();
  const count = await run();
  const seconds = now() - began;
  return { count, seconds, cpu: (await cpu()) - before };
}

async function timed(run, times) {
  const spent = [];
  for (let n = 0; n < times; n += 1) {
    const began = now();
    await run(n);
    spent.push(now() - began);
  }
  spent.sort((a, b) => a - b);
  return { p50: spent[Math.floor(times * 0.5)], p99: spent[Math.floor(times * 0.99)] };
}

const verbs = {
  async fill({ tasks }) {
    await redis.config("SET", "appendfsync", "no");
    let count = await queue.getWaitingCount();
    while (count < tasks) {
      const some = Math.min(1000, tasks - count);
      await queue.addBulk(Array.from({ length: some }, () => ({ name: "task", data: TASK })));
      count += some;
    }
    await redis.config("SET", "appendfsync", "always");
    return {};
  },

  submit({ producers, seconds }) {
    const ends = now() + seconds;
    return counted(async () => {
      let count = 0;
      const go = async () => {
        while (now() < ends) {
          await queue.add("task", TASK);
          count += 1;
        }
      };
      await Promise.all(Array.from({ length: producers }, go));
      return count;
    });
  },

  async work({ consumers, seconds }) {
    let count = 0;
    const worker = new Worker(NAME, async () => {}, { connection, concurrency: consumers, autorun: false });
    await worker.waitUntilReady();
    worker.on("completed", () => (count += 1));
    const done = await counted(async () => {
      worker.run();
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      return count;
    });
    await worker.close();
    return done;
  },

  async claim({ times }) {
    const worker = new Worker(NAME, null, { connection, autorun: false });
    await worker.waitUntilReady();
    const claimed = [];
    const found = await timed(async (n) => claimed.push(await worker.getNextJob(`t${n}`)), times);
    for (const [n, job] of claimed.entries()) await job.moveToCompleted(null, `t${n}`, false);
    await worker.close();
    return found;
  },

  stats: ({ times }) => timed(() => queue.getJobCounts(), times),
  first: ({ times }) => timed(() => queue.getJobs(["waiting"], 0, PAGE - 1), times),
  async deep({ times }) {
    const middle = Math.floor((await queue.getWaitingCount()) / 2);
    return timed(() => queue.getJobs(["waiting"], middle, middle + PAGE - 1), times);
  },
  filtered: async () => ({}), // its lists know states, and nothing else
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: verb, ...how } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await verbs[verb](how))}\n`);
}
