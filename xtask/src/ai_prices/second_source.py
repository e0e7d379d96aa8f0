"""Reads the prices of genai-prices from the text of its `data.py` on standard input, without running it, and prints them as JSON."""

import ast
import datetime
import json
import sys
from decimal import Decimal

CLASSES = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
}


def arguments(call):
    return {keyword.arg: keyword.value for keyword in call.keywords}


def name(call):
    return call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else None


def micro(decimal):
    return int(Decimal(decimal.args[0].value) * 1_000_000)


def base(value):
    return micro(arguments(value)["base"] if name(value) == "TieredPrices" else value)


def tiers(value):
    for tier in arguments(value)["tiers"].elts if name(value) == "TieredPrices" else []:
        tier = arguments(tier)
        yield tier["start"].value, micro(tier["price"])


def started(conditional):
    constraint = arguments(conditional).get("constraint")
    if constraint is None:
        return True
    start = arguments(constraint).get("start_date") if name(constraint) == "StartDateConstraint" else None
    return start is not None and datetime.date(*(part.value for part in start.args)) <= datetime.date.today()


def model_price(value):
    if isinstance(value, ast.List):
        current = [arguments(conditional)["prices"] for conditional in value.elts if started(conditional)]
        return current[-1] if current else None
    return value


def rates(price):
    found = {"rates": {}, "tiers": {}}
    for field, value in arguments(price).items():
        if field in CLASSES and name(value) in ("Decimal", "TieredPrices"):
            found["rates"][CLASSES[field]] = base(value)
            for start, rate in tiers(value):
                found["tiers"].setdefault(str(start), {})[CLASSES[field]] = rate
    return found


prices = {}
for node in ast.walk(ast.parse(sys.stdin.read())):
    if name(node) != "Provider":
        continue
    provider = arguments(node)
    models = prices.setdefault(provider["id"].value, {})
    for model in map(arguments, provider["models"].elts):
        price = model_price(model.get("prices"))
        if name(price) == "ModelPrice":
            models[model["id"].value] = rates(price)
json.dump(prices, sys.stdout)
