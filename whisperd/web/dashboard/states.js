// What can be done with a task, by where it is. The daemon decides; here it is only known what not to offer.
export const STATES = ["queued", "processing", "completed", "failed", "cancelled"];
const BROKEN = ["failed", "cancelled"];

export const isOver = (task) => task.status === "completed" || BROKEN.includes(task.status);
/** Whether it may run again: that takes its audio, of which an event says nothing. */
export const runsAgain = (task) => BROKEN.includes(task.status) && task.audio_kept !== false;
