// Which charts there are of the last day.
export const charts = () => null;
