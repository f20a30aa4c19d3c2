import dataclasses
import inspect

import pytest

from mxdeliver.core import model
from mxdeliver.core.calendar import SnapshotDate
from mxdeliver.core.model import Artifact, Bundle, DailyFile, DeliveryKey, EventType, ManifestFile

TYPES = [
    item
    for item in vars(model).values()
    if inspect.isclass(item)
    and dataclasses.is_dataclass(item)
    and item.__module__ == model.__name__
]
GUID = "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"
DAY = SnapshotDate(2020, 6, 14)


@pytest.mark.parametrize("item", TYPES, ids=lambda item: item.__name__)
def test_what_flows_is_frozen_slotted_and_built_by_keyword(item):
    assert item.__dataclass_params__.frozen
    assert "__slots__" in vars(item)
    assert all(field.kw_only for field in dataclasses.fields(item))


def artifact(identity, records, size):
    return Artifact(
        identity=identity,
        name="name",
        record_count=records,
        file_size=1,
        checksum="0" * 64,
        encrypted_file_size=size,
        encrypted_checksum="0" * 64,
    )


def test_a_bundle_sends_its_manifest_last_and_counts_it_as_bytes_not_records():
    files = tuple(
        artifact(
            DailyFile(client_guid=GUID, snapshot_date=DAY, resource="users", event=event), 3, 100
        )
        for event in EventType
    )
    manifest = artifact(ManifestFile(client_guid=GUID, snapshot_date=DAY), 999, 7)
    bundle = Bundle(
        key=DeliveryKey(client_guid=GUID, snapshot_date=DAY),
        artifacts=files,
        manifest=manifest,
        key_fingerprints=("A" * 40,),
    )
    assert bundle.files == (*files, manifest)
    assert (bundle.record_count, bundle.encrypted_size) == (9, 307)


def test_delivery_keys_sort_by_client_day_and_revision():
    first = DeliveryKey(client_guid=GUID, snapshot_date=DAY)
    assert first.revision == 1
    later = [
        DeliveryKey(client_guid=GUID, snapshot_date=DAY, revision=2),
        DeliveryKey(client_guid=GUID, snapshot_date=DAY.following()),
        DeliveryKey(client_guid=f"D{GUID[1:]}", snapshot_date=DAY.following(-1)),
    ]
    assert sorted([*reversed(later), first]) == [first, *later]
