// The tasks of the list that was looked at last: the page of one of them shows what is known of it at once.
let seen = [];

export const remember = (tasks) => {
  seen = tasks;
};
export const remembered = (id) => seen.find((task) => task.task_id === id);
