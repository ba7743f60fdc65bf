"""The commands `webhooks list|resend|secret`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from whisperd.commands import DEFAULT_URL, DataDir, Ids, Json, Settings, Url, client, command
from whisperd.commands.data_folder import as_owner, settings_of
from whisperd.terminal import age, complain, show_json, show_table

if TYPE_CHECKING:
    from whisperd.client import Delivery

app = typer.Typer(no_args_is_help=True, help="What addresses are told of tasks that are over.")

State = Annotated[
    str | None, typer.Option(help="waiting, delivered, dead; several with commas.", show_default=False)
]
TaskId = Annotated[str | None, typer.Option("--task", metavar="ID", help="Of one task.", show_default=False)]
Tenant = Annotated[str | None, typer.Option(help="Of one tenant.", show_default=False)]


@command(app, "list")
def webhooks_list(
    state: State = None,
    task: TaskId = None,
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """List deliveries, newest first.

    Columns: id, state, attempts, age of the event, event, task, where to, what went wrong last.

      $ whisperd webhooks list --state waiting,dead
    """
    with client(url) as daemon:
        found = daemon.deliveries(limit=limit, state=state, task_id=task, tenant=tenant)
    if json:
        show_json(found)
    else:
        head = ("ID", "STATE", "TRIES", "AGE", "EVENT", "TASK", "TO", "PROBLEM")
        show_table(head, [_row(delivery) for delivery in found], "PROBLEM")


def _row(delivery: Delivery) -> Sequence[str]:
    return (
        delivery.id,
        delivery.state,
        str(delivery.attempts),
        age(delivery.created_at),
        delivery.event,
        delivery.task_id,
        delivery.to,
        delivery.problem or "-",
    )


@command(app, "resend")
def webhooks_resend(delivery_ids: Ids, url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Deliver again, whatever became of it, under the id that it has.

    An address that wanted no more (410) is told of tasks again.

      $ whisperd webhooks list --state dead --limit 1000 | cut -f 1 | xargs whisperd webhooks resend
    """
    from whisperd.client import ApiError

    sent: list[Delivery] = []
    failed = False
    with client(url) as daemon:
        for delivery_id in delivery_ids:
            try:
                sent.append(daemon.resend(delivery_id))
            except ApiError as error:
                failed = True
                complain(f"{delivery_id}: {error}")
            else:
                if not json:
                    print(f"{delivery_id}\t{sent[-1].state}", flush=True)
    if json:
        show_json(sent)
    raise typer.Exit(failed)


@command(app, "secret")
def webhooks_secret(
    tenant: Annotated[
        str | None, typer.Option(help="Of this tenant's callbacks.", show_default=False)
    ] = None,
    config: Settings = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print the secret that a receiver needs to tell what is ours from what is forged.

    That of the endpoints in the settings and of tenant default; each other tenant has its own. Of several in
    webhooks.secrets the first is meant; without any there, one is made and kept in the data folder.

      $ whisperd webhooks secret --tenant acme
    """
    from whisperd.signing import kept_secret, of_tenant

    settings = settings_of(config, data_dir)
    with as_owner(settings.data_dir):
        master = next(iter(settings.webhooks.secrets), None) or kept_secret(settings.data_dir)
    secret = of_tenant(master, tenant)
    if json:
        show_json({"tenant": tenant or "default", "secret": secret})
    else:
        print(secret)
