"""Structured output against a judge: the default model fills random JSON schemas, `jsonschema` says whether they fit.

    python tests/clients/schemas.py target/debug/shardwire [COUNT] [SEED]

Every schema is bounded (strings, arrays, integers), so that every answer ends by itself within `max_tokens`.
"""

import concurrent.futures
import json
import random
import sys

import jsonschema
import openai

from serving import server

PARALLEL = 16
TOKENS_MAX = 1000
# The longest text that a schema may allow, in tokens as they come at worst.
WORST_MAX = 600
WORDS = ["name", "age", "city", "size", "kind", "tags", "items", "notes", "price", "state", "colour", "owner", "a", "b c", "é"]
PATTERNS = [(r"^[a-z]{2,6}$", 6), (r"^\d{4}-\d{2}$", 7), (r"^(red|green|blue)$", 5), (r"^[A-Z][a-z]?[0-9]{1,3}$", 5)]


class Schemas:
    """Random schemas; the same for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def schema(self):
        """An object with a few properties, small enough to be filled within the tokens."""
        while True:
            schema = self.object(depth=3)
            if self.random.random() < 0.4:
                self.move_to_definitions(schema)
            if worst(schema, schema) <= WORST_MAX:
                jsonschema.Draft202012Validator.check_schema(schema)
                return schema

    def any(self, depth):
        kinds = [self.string, self.pattern, self.integer, self.boolean, self.enum, self.constant, self.nothing]
        if depth > 0:
            kinds += [self.object, self.object, self.array, self.array, self.any_of]
        return self.random.choice(kinds)(depth=depth - 1)

    def object(self, depth):
        names = self.random.sample(WORDS, self.random.randint(1, 4))
        required = names if self.random.random() < 0.6 else self.random.sample(names, self.random.randint(0, len(names)))
        properties = {name: self.any(depth) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def array(self, depth):
        least = self.random.randint(0, 2)
        return {"type": "array", "items": self.any(depth), "minItems": least, "maxItems": least + self.random.randint(0, 2)}

    def any_of(self, depth):
        return {"anyOf": [self.any(depth) for _ in range(self.random.randint(2, 3))]}

    def string(self, depth):
        least = self.random.choice([0, 0, 1, 3])
        return {"type": "string", "minLength": least, "maxLength": least + self.random.randint(0, 9)}

    def pattern(self, depth):
        return {"type": "string", "pattern": self.random.choice(PATTERNS)[0]}

    def integer(self, depth):
        least = self.random.choice([-1000, -5, 0, 1, 37])
        return {"type": "integer", "minimum": least, "maximum": least + self.random.choice([0, 1, 9, 500, 100_000])}

    def boolean(self, depth):
        return {"type": "boolean"}

    def nothing(self, depth):
        return {"type": "null"}

    def enum(self, depth):
        values = ["yes", "no", "maybe", "a \"quoted\" one", "naïve", 0, 1, -3, 2.5, True, None]
        return {"enum": self.random.sample(values, self.random.randint(1, 4))}

    def constant(self, depth):
        return {"const": self.random.choice(["fixed", 7, False])}

    def move_to_definitions(self, schema):
        """Makes references of the properties, as generators of schemas do."""
        definitions = {}
        for number, (name, value) in enumerate(schema["properties"].items()):
            definitions[f"Part{number}"] = value
            schema["properties"][name] = {"$ref": f"#/$defs/Part{number}"}
        schema["$defs"] = definitions


def worst(schema, root):
    """Upper bound of the tokens of a value: four per character of a free text, one per other character."""
    if "$ref" in schema:
        return worst(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in schema:
        return max(worst(option, root) for option in schema["anyOf"])
    if "pattern" in schema:
        return 2 + dict(PATTERNS)[schema["pattern"]]
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if values:
        return max(len(json.dumps(value)) for value in values)
    match schema["type"]:
        case "object":
            return 2 + sum(8 + len(name) + worst(value, root) for name, value in schema["properties"].items())
        case "array":
            return 2 + schema["maxItems"] * (2 + worst(schema["items"], root))
        case "string":
            return 2 + 4 * schema["maxLength"]
        case "integer":
            return 7
        case _:
            return 5


def fill(client, number, schema):
    """Asks for a value of the schema; what is wrong with it, or None."""
    form = {"type": "json_schema", "json_schema": {"name": f"schema_{number}", "strict": True, "schema": schema}}
    try:
        answer = client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "Fill in this form with made-up values."}],
            response_format=form,
            max_tokens=TOKENS_MAX,
            temperature=0.8,
            seed=number,
        ).choices[0]
    except openai.APIError as error:
        return f"{error}"
    text = answer.message.content
    if answer.finish_reason != "stop":
        return f"{answer.finish_reason} after {text[-200:]!r}"
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (jsonschema.ValidationError, json.JSONDecodeError) as error:
        return f"{error}\nin {text!r}"
    return None


def told(number, schema, fault):
    """Whether there is a fault; it is shown."""
    if fault:
        print(f"schema {number}: {json.dumps(schema)}\n  {fault}", file=sys.stderr, flush=True)
    return fault is not None


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    schemas = Schemas(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    forms = [schemas.schema() for _ in range(count)]
    with server(sys.argv[1], "--max-num-seqs", str(PARALLEL)) as url:
        client = openai.Client(base_url=f"{url}/v1", api_key="null", max_retries=0)
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            faults = pool.map(lambda pair: fill(client, *pair), enumerate(forms))
            bad = sum(told(number, forms[number], fault) for number, fault in enumerate(faults))
    print(f"{count - bad} of {count} random schemas are filled as they ask")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
