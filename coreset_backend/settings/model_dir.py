"""MODEL_DIR as a person wrote it: a folder, or the address of a bucket, of which a machine keeps copies."""

import hashlib
import os
import re
from pathlib import Path

A_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
A_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def folder_or_bucket(written: str) -> Path | str:
    """A folder, or ``s3://bucket/prefix`` without needless slashes. Raises ValueError for other addresses."""
    scheme = A_SCHEME.match(written)
    if scheme is None:
        return Path(written)
    if scheme[1].lower() != "s3":
        raise ValueError("it is neither a folder nor the address of a bucket, as in s3://bucket/prefix")
    bucket, *prefix = [part for part in written[scheme.end() :].split("/") if part] or [""]
    if not A_BUCKET.fullmatch(bucket):
        raise ValueError(
            "it does not name a bucket by 3 to 63 letters, digits, dots and hyphens, as in s3://bucket/prefix"
            + (
                "; credentials are given by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                if "@" in bucket
                else ""
            )
        )
    if {".", ".."} & set(prefix):
        raise ValueError("its prefix has a part '.' or '..'; write the names of folders only")
    return "/".join(["s3:/", bucket, *prefix])


def bucket_and_prefix(address: str) -> tuple[str, str]:
    """The two parts of an address that `folder_or_bucket` has read; the prefix may be empty."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return bucket, prefix


def copies_of(address: str) -> Path:
    """The folder of this machine for the copies of what is in the bucket, by the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = f"{bucket_and_prefix(address)[0]}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    return Path(caches).expanduser().absolute() / "coreset-backend" / name
