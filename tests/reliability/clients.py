"""Users who submit at the same time, and who send again, with its key, what got no answer."""

import random
import threading
import time
import uuid
from itertools import count

import httpx


class Clients:
    """Threads that submit until told to stop. `acknowledged`: key → (task id, name of the sound).

    After each start of the daemon each sends once more what was acknowledged last, and after each failure to
    get an answer what it was sending; whatever else is answered than 200 or 202 is kept in `surprises`.
    """

    def __init__(self, daemon, clips, weights, *, pause, number=16, seed=0):
        self.daemon, self.clips, self.weights, self.pause, self.seed = daemon, clips, weights, pause, seed
        self.acknowledged = {}
        self.answered_twice = []  # (key, the id of the first answer, that of the second)
        self.surprises = []
        self._name = uuid.uuid4()  # keys of other Clients are not ours
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._live, args=(n,)) for n in range(number)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        """Each finishes what it is sending; so the daemon must be there, or `exc` is why it is not."""
        self._stop.set()
        if exc[0] is not None:
            self.daemon = None
        for thread in self._threads:
            thread.join()

    def _live(self, number):
        chance = random.Random(f"{self.seed} {number}")
        last, seen = None, self.daemon.url
        with httpx.Client(timeout=10) as http:
            for serial in count():
                name = chance.choices(list(self.weights), list(self.weights.values()))[0]
                sending = (f"{self._name}-{number}-{serial}", name, chance.choice([-5, 0, 0, 0, 5, 10]))
                if (task_id := self._sent(http, *sending)) is None:
                    return
                self.acknowledged[sending[0]] = (task_id, name)
                if last and seen != self.daemon.url:
                    seen = self.daemon.url
                    first = self.acknowledged[last[0]][0]
                    self.answered_twice.append((last[0], first, self._sent(http, *last)))
                last = sending
                if self._stop.wait(chance.expovariate(1 / self.pause)):
                    return

    def _sent(self, http, key, name, priority):
        """Until it is accepted: the task's id. None if it is refused for good, or nobody is left."""
        while self.daemon is not None:
            try:
                answer = http.post(
                    f"{self.daemon.url or _NOWHERE}/tasks/transcription",
                    files={"file": (f"{name}.wav", self.clips[name])},
                    data={"priority": str(priority), "beam_size": "1"},
                    headers={"Idempotency-Key": key},
                )
            except httpx.TransportError:
                time.sleep(0.02)
                continue
            if answer.status_code in (200, 202):
                return answer.json()["task_id"]
            self.surprises.append((answer.status_code, answer.text))
            if answer.status_code < 500:
                return None  # it would be refused for ever
            time.sleep(0.1)
        return None


_NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
