"""A second client of the DHT proxy, written from spec/dht-proxy.md and the documents it names, and from nothing else.

    python3 second-client vectors DIR     agrees with every case of items.json and messages.json
    python3 second-client talk URL SEED   holds a conversation with a server; prints what it put, as JSON
    python3 second-client follow URL KEY  prints the sequence number of each version as it comes, until number 2
"""

import hashlib
import json
import sys
from pathlib import Path

import proxy
from items import ItemError, Record, check_value, signed, target


def vectors(folder: str) -> None:
    items = json.loads((Path(folder) / "items.json").read_text())
    messages = json.loads((Path(folder) / "messages.json").read_text())
    cases = [(item_outcome, case) for case in items["items"]]
    cases += [(target_outcome, case) for case in items["targets"]]
    cases += [(reply_outcome, case) for case in messages["replies"] + messages["subscriptions"]]
    cases += [(update_outcome, case) for case in messages["updates"]]
    wrong = [case["comment"] for outcome, case in cases if not outcome(case)]
    print(json.dumps({"cases": len(cases), "wrong": wrong}))


def item_outcome(case: dict) -> bool:
    given, expected = case["input"], case.get("expected")
    v = bytes.fromhex(given["v"])
    try:
        if "k" not in given:
            check_value(v)
            return case["result"] == "valid" and hashlib.sha1(v).hexdigest() == expected["target"]
        k, salt, sig = (bytes.fromhex(given.get(name, "")) for name in ("k", "salt", "sig"))
        record = Record(k, given["seq"], v, sig, salt)
        record.check()
    except ItemError as error:
        return case["result"] == "invalid" and error.code == case["code"]
    agrees = lambda: (record.target.hex(), record.signable.hex()) == (expected["target"], expected["signable"])
    return case["result"] == "valid" and agrees()


def target_outcome(case: dict) -> bool:
    k, salt = (bytes.fromhex(case["input"].get(name, "")) for name in ("k", "salt"))
    return target(k, salt).hex() == case["expected"]["target"]


def reply_outcome(case: dict) -> bool:
    request = case["input"]["request"]
    try:
        answer = proxy.read_reply(request, proxy.read_frame(case["input"]["reply"]))
    except proxy.Refused as refusal:
        current = {"current": proxy.fields(refusal.current)} if refusal.current else {}
        return case["result"] == "valid" and case["expected"] == {"kind": "failure", "code": refusal.code, **current}
    except (proxy.Malformed, proxy.NotAsked, proxy.BadSignature, proxy.Rollback) as error:
        return case["result"] == "invalid" and case["error"] == type(error).__name__
    return case["result"] == "valid" and describe(answer).items() >= case["expected"].items()


def update_outcome(case: dict) -> bool:
    given = case["input"]
    try:
        record = proxy.read_update(given["following"], proxy.read_frame(given["update"]), (given["seq"], bytes.fromhex(given["v"])))
    except (proxy.Malformed, proxy.NotAsked, proxy.BadSignature, proxy.Rollback) as error:
        return case["result"] == "invalid" and case["error"] == type(error).__name__
    return case["result"] == "valid" and proxy.fields(record) == case["expected"]["record"]


def describe(answer) -> dict:
    match answer:
        case proxy.Found(record, source, conflict):
            return {"kind": "record", "record": proxy.fields(record), "source": source, "conflict": conflict}
        case proxy.Info():
            return {"kind": "info", "nodes": answer.dht["nodes"], "ready": answer.dht["ready"]}
        case proxy.Value(v):
            return {"kind": "value", "v": v.hex()}
        case _:
            return {"kind": type(answer).__name__.lower(), **vars(answer)}


def talk(url: str, seed: str) -> None:
    """Every message of the specification, with what it says must come back."""
    secret = bytes.fromhex(seed)
    server = proxy.Proxy(url)
    assert server.info.version == 1, server.info
    assert {"dht_info", "dht_get", "dht_put"} <= set(server.info.actions), server.info
    put = []
    for salt in (b"", b"second client"):
        first, second = (signed(secret, seq, b"d2:ih20:%s1:ni%dee" % (b"\xa5" * 20, seq), salt) for seq in (4, 5))
        assert server.get(first.k, salt) == proxy.Absent()
        assert server.put(first).stored > 0
        assert server.get(first.k, salt).record == first
        assert server.get(first.k, salt, seq=4) == proxy.Unchanged(4)
        assert server.put(second, cas=4).stored > 0
        assert server.get(first.k, salt, seq=4).record == second
        assert server.get(first.k, salt, max_age=0).record == second
        assert refusal(server.put, signed(secret, 6, b"1:x", salt), cas=4) == (301, second)
        assert refusal(server.put, first) == (302, second)
        assert refusal(server.put, signed(secret, 5, b"1:a", salt)) == (302, second)
        assert server.put(second, cas=1).stored >= 0, "repeating what stands is no error"
        put.append(proxy.fields(second))

    value = b"13:second client"
    assert server.put_value(value).stored > 0
    assert server.get_value(hashlib.sha1(value).digest()) == proxy.Value(value)

    k = signed(secret, 0, b"i0e").k.hex()
    whole = {"action": "dht_put", **proxy.fields(signed(secret, 7, b"1:x"))}
    faults = [
        (204, {"action": "dht_dance"}),
        (203, {"action": "dht_get"}),
        (203, {"action": "dht_get", "k": k[:-1]}),
        (203, {"action": "dht_get", "k": k, "seq": -1}),
        (203, {"action": "dht_put", "v": "78"}),
        (205, {"action": "dht_put", "v": (b"997:" + b"x" * 997).hex()}),
        (206, {**whole, "seq": 8}),
        (207, {"action": "dht_get", "k": k, "salt": "ab" * 65}),
    ]
    for code, request in faults:
        assert server.code(request) == code, request
    server.close()
    print(json.dumps({"put": put}))


def follow(url: str, key: str) -> None:
    server = proxy.Proxy(url)
    assert "dht_subscribe" in server.info.actions, server.info
    k = bytes.fromhex(key)
    for record in server.follow(k):
        print(record.seq, flush=True)
        if record.seq == 2:
            break
    server.unfollow(k)
    server.close()


def refusal(call, *arguments, **options) -> tuple:
    try:
        answer = call(*arguments, **options)
    except proxy.Refused as refused:
        return (refused.code, refused.current)
    raise AssertionError(f"not refused: {answer}")


if __name__ == "__main__":
    {"vectors": vectors, "talk": talk, "follow": follow}[sys.argv[1]](*sys.argv[2:])
