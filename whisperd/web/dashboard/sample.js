// The numbers of a moment that charts are made of.

/** A moment's numbers, of /stats as it was then. */
export function sample(stats, at) {
  const { throughput, wait_seconds: wait, workers } = stats;
  const factors = workers.map((worker) => worker.real_time_factor).filter((factor) => factor > 0);
  return {
    at,
    queued: stats.queued,
    processing: stats.processing,
    tasks_per_minute: throughput.tasks_per_minute,
    audio_seconds_per_second: throughput.audio_seconds_per_second,
    wait_p50: wait.p50,
    wait_p95: wait.p95,
    speed: factors.length ? factors.length / factors.reduce((sum, factor) => sum + factor, 0) : null,
    rss_bytes: workers.reduce((sum, worker) => sum + (worker.rss_bytes ?? 0), 0),
  };
}
