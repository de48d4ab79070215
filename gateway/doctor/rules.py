"""Every kind of finding, once: how bad it is, why it matters, and what to do about it. Data, in areas.

An id is for scripts and stays as it is. Not held here: how anything is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["error", "warning"]  # does not work as it is; works, and is going to hurt


class Rule(msgspec.Struct, frozen=True):
    """What a kind of finding means."""

    level: Level
    why: str
    fix: str


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: by which rule, where (a key of the file, a path), and what was met there."""

    rule: str
    where: str
    found: str

    @property
    def meaning(self) -> Rule:
        """Its rule."""
        return RULES[self.rule]

    def told(self) -> dict[str, str]:
        """For programs."""
        rule = self.meaning
        return {
            "id": self.rule, "level": rule.level, "where": self.where, "found": self.found, "why": rule.why,
            "fix": rule.fix,
        }


def _error(why: str, fix: str) -> Rule:
    return Rule("error", why, fix)


def _warning(why: str, fix: str) -> Rule:
    return Rule("warning", why, fix)


_REFUSED: Final[Mapping[str, Rule]] = {
    "file-unreadable": _error(
        "Without its file the gateway does not start.",
        "Give the path with --config, and let the user that runs `reelgate serve` read it."),
    "not-toml": _error(
        "The file cannot be read as TOML, so nothing in it counts.",
        "Mend the line that is named; texts stand in quotes, tables in [brackets]."),
    "unknown-name": _error(
        "A misspelt name would silently mean nothing, so the start is refused.",
        "Write the name as it is suggested."),
    "no-provider": _error(
        "There is nobody to make a video.",
        'Add a table: [providers.NAME] with adapter and api_key = { env = "..." }.'),
    "secret-variable-missing": _error(
        "The secret is read from a variable that this process does not have.",
        "Set it where the service gets its environment (systemd: EnvironmentFile, compose: environment)."),
    "secret-empty": _error(
        "An empty secret is refused by everybody it is shown to.",
        "Put the secret there; `printf %s` and `$(cat ...)` of a missing file leave nothing."),
    "secret-file-unreadable": _error(
        "The file of a secret is not there, or not for this user.",
        "Mind the path (relative ones go from the configuration file), the owner and the mount."),
    "secret-written-out": _error(
        "What stands in the configuration ends up in backups, tickets and repositories.",
        'Put it into a variable or a file, and name that: { env = "NAME" } or { file = "PATH" }.'),
    "secret-has-odd-characters": _error(
        "A line break or a space cannot travel in a header; most often it was copied along.",
        "Store the key alone: `printf %s KEY > FILE`, without `Bearer`, blanks or a carriage return."),
    "base-url-missing": _error(
        "This adapter's vendor has no known address.",
        "Write base_url, as the vendor's account page has it."),
    "base-url-plain-http": _error(
        "The account's key would be readable on its way.",
        "Use https; for a simulator or a relay inside, list its address in [egress] allow."),
    "auth-off-public": _error(
        "Everybody who reaches the port could spend your money.",
        'Set [auth] mode = "keys", or listen on 127.0.0.1.'),
    "default-model-unserved": _error(
        "A request without a model could never be served.",
        "Set default_model to one that an enabled offering serves, or enable such an offering."),
    "poll-bounds-crossed": _error(
        "No time between two polls can satisfy both.", "Set poll_min to at most poll_max."),
    "webhook-secret-malformed": _error(
        "Receivers verify with libraries of Standard Webhooks, which read no other form.",
        'Use "whsec_" and base64: `echo whsec_$(openssl rand -base64 24)`.'),
    "ca-file-unusable": _error(
        "Without these authorities no connection through them can be verified.",
        "Name a PEM file with BEGIN CERTIFICATE in it; convert DER with `openssl x509 -inform der`."),
    "store-url-malformed": _error(
        "Nothing can be kept.",
        'Write "sqlite:PATH" or "postgresql://USER:PASSWORD@HOST/DATABASE", special characters as %2F.'),
    "value-refused": _error(
        "The value is not one that this key takes, so the start is refused.",
        "Choose one as the message says; deploy/configuration.md lists all keys with their ranges."),
}

_SETTINGS: Final[Mapping[str, Rule]] = {
    "key-in-quotes": _error(
        "The quotation marks are sent as a part of the key: an env file or YAML kept them.",
        "Store the key without quotation marks."),
    "key-placeholder": _error(
        "This is the example's text and no key; the vendor will refuse it.",
        "Put the account's real key there."),
    "providers-share-account": _warning(
        "Two providers with one account share its limits and its balance: one falls back to itself.",
        "Remove one, or give it the key of another account."),
    "base-url-has-api-path": _error(
        "The adapter adds this path itself, so that every call would have it twice and meet 404.",
        "Cut the path off base_url."),
    "egress-allows-everything": _warning(
        "Result links and webhooks could then reach any private service from inside.",
        "List only the networks that webhooks and result links have to reach."),
    "egress-allows-itself": _warning(
        "A webhook's address could then be a service of this machine, or the gateway's own admin port.",
        "Take loopback and link-local addresses off [egress] allow."),
    "deadline-short": _warning(
        "Renders take minutes, at busy times a quarter of an hour; what is late is paid and not delivered.",
        "Set routing.deadline to an hour or more."),
    "unknown-timeout-past-deadline": _warning(
        "The deadline ends such a task first, so that on_unknown never gets its turn.",
        "Set unknown_timeout well below routing.deadline."),
    "queue-age-past-deadline": _warning(
        "A task would meet its deadline in the queue, and never be tried elsewhere.",
        "Set max_queue_age well below routing.deadline."),
    "submit-timeout-short": _warning(
        "Vendors take their time to accept; each acceptance that is cut off is paid and unknown.",
        "Set submit_timeout to 30 s or more (60s is the default)."),
    "polls-too-often": _warning(
        "So many questions use up the account's rate, and then creates are refused, too.",
        "Set poll_min to 1s or more, or bound it by polls_per_minute."),
    "polls-past-links": _warning(
        "A finished video may be found when its link is dead already: paid and lost.",
        "Set poll_max to a few minutes at most."),
    "records-end-before-files": _warning(
        "A record that is gone takes its file with it, so files are not kept as long as it says.",
        "Set files.records_retention to at least files.retention."),
    "retention-short": _warning(
        "Callers that fetch a little later meet 410: paid and gone.",
        "Set files.retention to a day or more."),
    "price-missing": _error(
        "Where money is limited or compared, an offering without a price is never used.",
        "Add the offering to the prices of its provider."),
    "price-other-currency": _error(
        "No price is in the currency of this budget, so that its keys can order nothing.",
        "Set the team's currency to that of the prices, or add prices in it."),
    "resubmits-unknown": _warning(
        "What may have been accepted is sent again: it may be paid twice.",
        'Use on_unknown = "hold" and decide with `reelgate videos resolve`.'),
    "reruns-unbounded": _warning(
        "Failed renders are bought again elsewhere, whatever that costs.", "Set routing.rerun_cost_limit."),
    "log-debug": _warning(
        "At this level a busy gateway logs many lines per request, and disks fill.",
        'Set [log] level = "info".'),
    "public-url-plain": _warning(
        "Keys and videos would travel readable between callers and the gateway.",
        "Put TLS before it, and write https in server.public_url."),
    "public-url-local": _error(
        "Links in answers and webhooks would lead every receiver to its own machine.",
        "Write the address under which callers reach the gateway."),
    "metrics-in-public": _warning(
        "Everybody who may call reads /metrics, too: providers, volumes and spend.",
        'Set server.management = "127.0.0.1:9090", or an address that only Prometheus reaches.'),
    "webhook-secret-short": _warning(
        "A short secret can be found by trying, and then anybody forges your events.",
        "Use 24 random bytes or more: `echo whsec_$(openssl rand -base64 24)`."),
    "weight-without-use": _warning(
        "Weights count for one strategy only; here they change nothing.",
        'Set routing.strategy = "weighted", or remove weight.'),
    "proxies-too-many": _warning(
        "Everybody in such a network is believed whom a request is from, so limits by address do not hold.",
        "List the addresses of the proxies themselves."),
    "cors-origin-plain": _warning(
        "Who can change that page on its way can use the key of whoever opens it.",
        "Serve the page by https, and list it so."),
    "retires-soon": _warning(
        "From that day (UTC) on nothing new goes there; what no other takes meets no_route.",
        "Have another provider or offering on for the same models before, then remove this one."),
    "bucket-redirect-local": _error(
        "Callers are sent to the bucket's endpoint, which is a loopback address: their own machine.",
        "Set files.redirect = false, or an endpoint that callers reach."),
}

_PLACES: Final[Mapping[str, Rule]] = {
    "secret-file-open": _warning(
        "Every user of this machine can read the secret.",
        "chmod 600 and chown it to the service's user (Kubernetes: defaultMode 0400)."),
    "config-open-with-password": _warning(
        "The password of the database stands in a file that every user of this machine can read.",
        'Write url = { env = "REELGATE_STORE" } or { file = "..." }, and change the password.'),
    "store-file-open": _warning(
        "Prompts and images of all callers are readable by every user of this machine.",
        "chmod 600 the database and 700 its folder; run with UMask=0077."),
    "store-unusable": _error(
        "The database's file cannot be opened or made, so nothing starts.",
        "Mind the path and its owner; nothing else may stand there."),
    "store-not-a-database": _error(
        "The file is something else, or was damaged.",
        "Restore a backup (`reelgate db backup` makes them), or name another file."),
    "store-on-network": _error(
        "SQLite's locks do not hold on network file systems: two gateways would buy the same video.",
        "Move the file to a local disk, or use PostgreSQL."),
    "store-forgets": _warning(
        "What is stored here is gone after a restart of the machine or container, paid videos included.",
        "Mount a volume, or name a folder on a disk."),
    "disk-nearly-full": _error(
        "With a full disk no create is taken and no finished video kept.",
        "Make room, shorten files.retention, or move to a larger disk."),
    "files-unusable": _error(
        "Finished videos cannot be stored, and are lost when the vendor's links end.",
        "Let the service's user write to the folder; nothing else may stand there."),
    "bucket-missing": _error(
        "Finished videos cannot be stored, and are lost when the vendor's links end.",
        "Make the bucket, or mend its name and region."),
    "bucket-refuses": _error(
        "The bucket refuses these keys or what is done with them; finished videos would be lost.",
        "Mind access_key_id and secret_access_key, and allow PutObject, GetObject and DeleteObject."),
    "bucket-unreachable": _error(
        "No answer comes from the bucket; finished videos would be lost.",
        "Mind files.endpoint, DNS and the firewall."),
    "port-taken": _error(
        "Another program listens there already, so the gateway cannot.",
        "Stop it (`ss -ltnp` names it), or set another port."),
    "address-not-here": _error(
        "This machine does not have that address, so nothing can listen on it.",
        'Listen on "0.0.0.0:PORT" or on an address that `ip addr` shows.'),
    "port-forbidden": _error(
        "Ports below 1024 are for root, and the gateway should not be that.",
        "Use a port above 1023 behind a proxy, or grant CAP_NET_BIND_SERVICE."),
    "ca-file-expired": _error(
        "What these authorities signed is not believed any more.",
        "Put the renewed certificates into [egress] ca_file."),
    "open-files-low": _warning(
        "Each waiting caller needs one; when they are used up, new callers are turned away.",
        "Raise it: LimitNOFILE=65536 (systemd), ulimits (compose), or `ulimit -n`."),
    "runs-as-root": _warning(
        "Whatever goes wrong in the process then goes wrong with all rights of the machine.",
        "Run it as a user of its own, as deploy/ does."),
}

_STORES: Final[Mapping[str, Rule]] = {
    "database-unreachable": _error(
        "Without its database the gateway does not start.",
        "Mind host and port of [store] url, DNS, the firewall, and that PostgreSQL runs."),
    "database-refuses-login": _error(
        "User or password is wrong, or pg_hba.conf does not let this host in.",
        "Mind the URL's user and password (special characters as %40), and pg_hba.conf."),
    "database-missing": _error(
        "The server has no database of that name.", "Make it: `createdb -E UTF8 NAME`, or mend the URL."),
    "database-full": _error(
        "The server takes no more connections.", "Raise max_connections, or put a pooler before it."),
    "database-unfit": _error(
        "The product needs PostgreSQL 14 or newer and a database in UTF8.",
        "Upgrade the server, or `createdb -E UTF8 -T template0 NAME` and name that one."),
    "database-read-only": _error(
        "This server takes no writes: it is a standby, or set to be read-only.",
        "Name the primary in the URL, or unset default_transaction_read_only."),
    "database-forbids-schema": _error(
        "The user may make no tables, so that migrations fail.",
        "grant create, usage on schema public to that user, or make it the database's owner."),
    "database-not-durable": _error(
        "A commit may be lost with the power, and with it the only record of a paid video.",
        "Set fsync = on and synchronous_commit = on for this database."),
    "database-few-connections": _error(
        "One replica opens up to ten connections, and a backup one more; short of them it stalls under load.",
        "Raise max_connections, or the limit of the role or database."),
    "database-statement-timeout": _warning(
        "Statements are cut short by the server; sums over a long time and backups fail first.",
        "alter role USER set statement_timeout = 0 (the product bounds its own)."),
    "files-not-shared": _error(
        "What one replica has stored the others do not find: callers meet 410 by chance.",
        "Use s3://, or a folder that all replicas share."),
    "files-away": _error(
        "The folder of the stored videos is not there: callers meet 503, and no new video can be stored.",
        "Mount its volume. Where its files are lost, or the folder is new, make an empty .reelgate in it."),
    "schema-newer": _error(
        "A newer version has changed the database; this one must not touch it.",
        "Start the newer version, or restore a backup from before."),
    "schema-behind": _warning(
        "Migrations have not run yet; `serve` runs them when it starts, which may take a while.",
        "Run `reelgate db migrate` at a quiet time before."),
    "no-key": _warning(
        "Nobody can call: there is no key that is good.", "Make one: `reelgate keys create NAME`."),
    "no-admin-key": _warning(
        "Nobody can pause a provider or decide about an unknown submission over the API.",
        "Make one: `reelgate keys create NAME --role operator`."),
    "key-ends-soon": _warning(
        "Its callers meet 401 within a week.",
        "Make another one, or rotate it: `reelgate keys rotate ID`."),
    "key-of-unknown-team": _error(
        "Of a team that is not configured nobody knows what it may spend: its keys order nothing.",
        "Add [teams.NAME] again, or revoke the key."),
    "key-for-nothing": _error(
        "The key is for providers or models of which none is configured: it orders nothing.",
        "Make a key for those there are, and revoke this one."),
    "provider-gone": _error(
        "Unfinished videos are at a provider that is not configured: who starts now never asks for them.",
        "Put the provider back, then they are followed again; or wait until their deadline ends them."),
    "spending-stopped": _warning(
        "No video is taken or sent while it lasts.", "When that is over: `reelgate spending start`."),
}

_VENDORS: Final[Mapping[str, Rule]] = {
    "vendor-name-unknown": _error(
        "The name of the vendor's host is not known here.",
        "Mind the spelling of base_url, and this machine's DNS (`getent hosts NAME`)."),
    "vendor-unreachable": _error(
        "No connection to the vendor comes about.",
        "Mind base_url, and the firewall; where there is a way out only by proxy, set [egress] proxy."),
    "vendor-certificate-expired": _error(
        "The certificate's time is over, or this machine's clock is wrong.",
        "Look at `date` first; then it is for the vendor, or who runs the relay, to renew it."),
    "vendor-certificate-other-name": _error(
        "The certificate is for another name: base_url is not the vendor's own, or somebody is between.",
        "Write base_url with the name that the certificate has."),
    "vendor-certificate-untrusted": _error(
        "Nobody we trust has signed it: an own authority, a proxy that opens TLS, or somebody between.",
        "Have your network's authority in [egress] ca_file; never turn verification off."),
    "vendor-no-tls": _error(
        "What answers there speaks no TLS.", "Mind scheme and port of base_url."),
    "vendor-key-refused": _error(
        "The vendor refuses the key; every create there would fail.",
        "Put the account's present key there, and mind that it belongs to this vendor and base_url."),
    "vendor-account-refused": _error(
        "The vendor knows the key, and lets the account do nothing.",
        "Look at balance, permissions and address lists on the vendor's account page."),
    "vendor-redirects": _error(
        "A redirect is never followed: the key would go where nobody has configured it to.",
        "Write the address it leads to as base_url, if that is the vendor's own."),
    "vendor-not-an-api": _error(
        "What answers is not the vendor's API.",
        "Mind host and path of base_url; a portal or proxy may have answered."),
    "vendor-fails": _warning(
        "The vendor answers with its own errors; what is sent there waits or goes elsewhere.",
        "Look at its status page; `reelgate providers list` shows whether it is back."),
    "proxy-unreachable": _error(
        "Everything towards vendors goes by the proxy, and that cannot be reached or refuses.",
        "Mind [egress] proxy: address, port, user and password."),
    "clock-wrong": _error(
        "Leases, signatures, limits by the minute and expiry times all go by this machine's clock.",
        "Have it synchronised (chrony, systemd-timesyncd), then look at `date -u`."),
    "no-answer-in-time": _warning(
        "This part of the examination was given up, so nothing is known of it.",
        "Run it again; if it stays so, something on the way is very slow or swallows packets."),
    "check-failed": _warning(
        "This part of the examination failed itself, so nothing is known of it.",
        "Report it with `reelgate --version` and the error that is named."),
}

RULES: Final[Mapping[str, Rule]] = {**_REFUSED, **_SETTINGS, **_PLACES, **_STORES, **_VENDORS}
