"""The composition root: web, worker and command line all start with ``open_backend(read_settings())``."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError, ResponseError, TimeoutError
from redis.retry import Retry
from rq import Queue
from rq.exceptions import NoSuchJobError, TimeoutFormatError
from rq.job import Job
from rq.serializers import JSONSerializer

from coreset_backend.errors import ConfigError, CoresetError
from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.network.outbound import Proxies, read_proxies
from coreset_backend.project_settings import EXTRA_PARAMS, LABEL_CONFIG, known_settings, project_settings
from coreset_backend.redaction import keep_secret
from coreset_backend.settings import Settings
from coreset_backend.store.bucket import Bucket
from coreset_backend.store.store import Round, Store

if TYPE_CHECKING:
    from coreset_backend.images import Images


log = logging.getLogger(__name__)
T = TypeVar("T")
MAINTENANCE_SECONDS = 20
OUR_KEYS = "coreset:"
FORMER_NAMES = {
    f"coreset_backend.jobs.{name}": f"coreset_backend.jobs.tasks.{name}"
    for name in ("run_round_job", "pretrain_job", "reconcile_job")
}
"""Function names in jobs of the previous release -> current names; accepted for one release."""


class OurJob(Job):
    """A job in Redis of which only the fields that this backend writes are read.

    RQ's jobs may also name callbacks, web addresses and other jobs: through them anybody who can write to
    Redis could run any function.
    """

    FIELDS = frozenset(
        b"data created_at origin worker_name description enqueued_at started_at ended_at last_heartbeat "
        b"result timeout result_ttl failure_ttl ttl status meta number_of_retries retries_left "
        b"retry_intervals exc_info".split()
    )

    @property  # type: ignore[misc]  # RQ itself sets it nowhere
    def func_name(self) -> str | None:
        """The dotted name of the function; the current name for a job of the previous release."""
        name = super().func_name
        return FORMER_NAMES.get(name, name) if isinstance(name, str) else name

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read the fields; raises NoSuchJobError for anything else than a job, which RQ then ignores."""
        try:
            super().restore({name: value for name, value in raw_data.items() if name in self.FIELDS})
        except (ValueError, TypeError, AssertionError, ArithmeticError, TimeoutFormatError) as error:
            raise NoSuchJobError(f"{self.key} is no job: {error}") from error


class OurQueue(Queue):
    """RQ's queue, whose maintenance lock expires soon after its worker was killed."""

    def acquire_maintenance_lock(self) -> bool:
        """Whether this worker cleans up after killed workers; RQ's own lock lasts 15 min after a kill."""
        return bool(self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=MAINTENANCE_SECONDS))


class OurRedis(Redis):
    """Redis, in which a key of this backend with a wrong type of value counts as empty and is deleted.

    The values of these keys may be lost; a foreign value must not block a project forever.
    """

    def execute_command(self, *args: object, **options: object) -> object:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            ours = [each for each in args[1:] if isinstance(each, str) and each.startswith(OUR_KEYS)]
            if "WRONGTYPE" not in str(error) or not ours:
                raise
            log.error("%s in Redis was not written by this backend; it is deleted", ours[0])
            self.delete(*ours)
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class Backend:
    """Redis, store, Label Studio and images of one process; the last two are opened at their first use."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        label_studio: LabelStudio | None = None,
        *,
        patient: bool = False,
    ) -> None:
        self.settings = settings
        self.redis = redis
        # A worker takes jobs of a queue while the queues before it are empty: rounds that a person started,
        # rounds that start automatically, pretraining.
        self.high_priority_queue, self.queue, self.low_priority_queue = (
            OurQueue(
                name,
                connection=redis,
                job_class=OurJob,
                serializer=JSONSerializer,
                default_timeout=settings.job_timeout,
            )
            for name in (f"{settings.queue_name}-first", settings.queue_name, f"{settings.queue_name}-spare")
        )
        self.store = open_store(settings, patient=patient)
        if label_studio:
            self.label_studio = label_studio

    @property
    def jobs_waiting(self) -> int:
        """Number of jobs that wait for a worker, without pretraining."""
        return self.high_priority_queue.count + self.queue.count

    @cached_property
    def label_studio(self) -> LabelStudio:
        return label_studio_by(self.settings, self.proxies)

    @cached_property
    def proxies(self) -> Proxies:
        """The proxies for Label Studio and for images."""
        return proxies_by(self.settings)

    @cached_property
    def images(self) -> "Images":
        return images_by(self.settings, self.label_studio, self.proxies, self.store.image_cache)

    @cached_property
    def brief_redis(self) -> Redis:
        """A connection for writes that a round must not wait for.

        If Redis is down, a command fails within a second; if the network is silent, within a minute.
        """
        return redis_connection(self.settings, retries=1, timeout=20.0)

    @property
    def webhook_secret(self) -> str:
        """The secret that webhooks must carry; read each time, because it may be restored or replaced."""
        given = self.settings.webhook_secret
        secret = given.get_secret_value() if given else self.store.webhook_secret()
        keep_secret(secret)
        return secret

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User name and password of the login; None if no login is required."""
        settings = self.settings
        if settings.basic_auth_user is None or settings.basic_auth_pass is None:
            return None
        return settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()

    def settings_by_label_config(self, project_id: int, attributes: Mapping[str, str]) -> Settings:
        """The settings of the project; ``attributes`` are those of its label config.

        Raises ConfigError for a wrong attribute. The settings from Label Studio's form were checked when
        they were saved; settings that only another release knows are ignored.
        """
        return project_settings(self.settings, self.known_params(project_id), attributes)

    def settings_by_round(self, project_id: int, seen_by: Round | None) -> Settings:
        """The settings of the project with the label config that its newest round read; unknown attributes
        are ignored.
        """
        seen = known_settings(seen_by.attributes if seen_by else {}, LABEL_CONFIG)
        return self.settings_by_label_config(project_id, seen)

    def trigger_of(self, project_id: int) -> str:
        """ "auto" if rounds of the project start automatically, else "manual"."""
        newest = self.store.latest(project_id)
        return self.settings_by_round(project_id, newest.record if newest else None).trigger

    def known_params(self, project_id: int) -> dict[str, object]:
        """The usable settings from Label Studio's form of the project."""
        return known_settings(self.store.extra_params(project_id), EXTRA_PARAMS)

    def of_each_project(self, look: Callable[[int], T]) -> Iterator[tuple[int, T | CoresetError]]:
        """(id, result of ``look``) for every known project, ordered by id.

        If ``look`` fails, its error instead: one broken project does not hide the others.
        """
        for project_id in self.store.projects():
            try:
                yield project_id, look(project_id)
            except CoresetError as error:
                log.error("project %d is ignored: %s", project_id, error)
                yield project_id, error
            except Exception as error:
                log.exception("project %d is ignored", project_id)
                yield project_id, CoresetError(f"An unexpected error ({type(error).__name__}: {error}).")

    def close(self) -> None:
        for opened in ("label_studio", "images", "brief_redis"):
            if opened in self.__dict__:
                self.__dict__[opened].close()
        self.redis.close()


def label_studio_by(settings: Settings, proxies: Proxies) -> LabelStudio:
    """The client for these settings; raises ConfigError without an address or a key."""
    if not settings.label_studio_url or not settings.label_studio_api_key:
        raise ConfigError(
            "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY are not both set, so Label Studio cannot be "
            "reached. Set both; the key is under Account & Settings in Label Studio."
        )
    return LabelStudio(
        settings.label_studio_url,
        settings.label_studio_api_key.get_secret_value(),
        verify=settings.verify_ssl,
        proxy=proxies.leading_to_label_studio(),
    )


def proxies_by(settings: Settings) -> Proxies:
    """The proxies for Label Studio and for images."""
    return read_proxies(settings.label_studio_url or "", settings.label_studio_proxy)


def images_by(
    settings: Settings,
    label_studio: LabelStudio,
    proxies: Proxies,
    cache_dir: Path,
    max_failed_share: float = 0.5,
) -> "Images":
    """The images that these settings let in; a fetch fails if more than that share of them does."""
    from coreset_backend.images import Limits, open_images  # Pillow, which the web does not need

    return open_images(
        label_studio_url=label_studio.url,
        auth=label_studio.auth,
        cache_dir=cache_dir,
        cache_bytes=int(settings.cache_gb * 1e9),
        allowed_hosts=settings.allowed_hosts,
        local_files_root=settings.local_files_document_root,
        verify=settings.verify_ssl,
        browser_url=settings.label_studio_browser_url,
        proxies=proxies,
        limits=Limits(
            max_bytes=int(settings.image_mb * 1e6), max_pixels=int(settings.image_megapixels * 1e6)
        ),
        max_failed_share=max_failed_share,
    )


def open_backend(
    settings: Settings,
    *,
    redis: Redis | None = None,
    label_studio: LabelStudio | None = None,
    patient: bool = False,
) -> Backend:
    """The backend for these settings; connections are opened at their first use.

    ``patient``: for the worker, whose commands wait for a restart of Redis (about four minutes), and whose
    requests for a bucket that does not answer (a minute). Without it they fail within seconds, as a web
    request should.
    """
    redis = redis or redis_connection(settings, patient=patient)
    return Backend(settings, redis, label_studio, patient=patient)


def open_store(settings: Settings, *, patient: bool = False) -> Store:
    """The store in MODEL_DIR. ``patient``: a bucket that does not answer is waited for, as a round should.

    Raises ConfigError.
    """
    if isinstance(settings.model_dir, str):
        return Store(Bucket(settings.model_dir, settings.local_dir, patient=patient))
    return Store(settings.model_dir)


def redis_connection(
    settings: Settings, *, patient: bool = False, retries: int = 2, timeout: float = 5.0
) -> Redis:
    """A connection to REDIS_URL; raises ConfigError if it is not set or not the address of a Redis.

    ``timeout``: seconds to wait for an answer.
    """
    if not settings.redis_url:
        raise ConfigError(
            "REDIS_URL is not set. Name a Redis, as in redis://localhost:6379/0, or use "
            "`coreset-backend run`, which starts one of its own."
        )
    backoff = (
        ExponentialWithJitterBackoff(base=0.5, cap=5.0) if patient else ExponentialWithJitterBackoff(cap=0.1)
    )
    try:
        return OurRedis.from_url(
            settings.redis_url,
            password=settings.redis_password.get_secret_value() if settings.redis_password else None,
            retry=Retry(backoff, retries=60 if patient else retries),
            retry_on_error=[ConnectionError, TimeoutError],
            socket_connect_timeout=5.0,
            # RQ's commands block for up to five seconds; a longer silence means a dead connection.
            socket_timeout=30.0 if patient else timeout,
            health_check_interval=30,
        )
    except ValueError:  # its message may contain half a password
        raise ConfigError(
            "REDIS_URL is not the address of a Redis. Write redis://host:6379/0, with rediss:// for TLS, or "
            "unix:///path. In its password the characters / @ : # ? % must be percent-encoded (/ is %2F); or "
            "leave the password out and set REDIS_PASSWORD."
        ) from None
