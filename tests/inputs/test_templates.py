"""Chat templates: the texts are those of transformers, and a stranger's template does no harm."""
# ruff: noqa: E501

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import pytest

from vtx_keras.inputs import _templates
from vtx_keras.inputs._templates import BadTemplate, rendered

# Written as the published ones are, with the parts that matter: tests of roles, slices, namespaces, tools, JSON.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "zephyr": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
        "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
        "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "llama3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "qwen2.5": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "qwen3": """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "gemma3": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
""",
    "mistral": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
        "{% set chat = messages[1:] %}{% else %}{% set system = '' %}{% set chat = messages %}{% endif %}"
        "{% for message in chat %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
        "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == "
        "'user' %}{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}{% elif message["
        "'role'] == 'assistant' %}{{ ' ' + message['content']|trim + eos_token }}{% else %}{{ raise_exception('Only user "
        "and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "features": """{%- macro kind(one, more='') -%}
    {{ one.type | upper ~ more }}{% if one.of %}<{{ kind(one.of) }}>{% endif %}
{%- endmacro -%}
{% for message in messages if message.role != 'system' %}
    {% if loop.index > 9 %}{% break %}{% endif %}
    {%- generation %}
{{ message.content | tojson }}|{{ message | tojson(indent=2) }}
    {% endgeneration %}
{% endfor %}
{{ kind({'type': 'list', 'of': {'type': 'int'}}, '!') }} {{ messages | map(attribute='role') | join(', ') }}
{% for key, value in messages[0].items() | sort %}{{ key }}={{ value }};{% endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ dict(a=1, b=[1.5, none]) }} {{ missing }}
{{ ('<b>' | safe) + '<i>' }} {{ 7 // 2 * 3 % 5 }} {{ range(3) | list }} {{ tools is none }} {{ documents is none }}
{% if messages | selectattr('x') %}true{% endif %} {{ messages[-1].thinking }} {{ pad_token is defined }}
""",
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is <this>? "},
    {"role": "assistant", "content": "<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431 ", "tool_calls": None},
    {"role": "user", "content": "And now?"},
]
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks at \u00e9 & <b>."}}]
PICTURE = [
    {"role": "system", "content": [{"type": "text", "text": "Look."}]},
    {"role": "user", "content": [{"type": "image", "image": np.zeros((2, 2))}, {"type": "text", "text": "What? "}]},
]
THOUGHTS = [TURNS[1], {"role": "assistant", "content": "A cat", "reasoning": "Fur"}]
CASES = {
    **{name: (name, TURNS, {}) for name in TEMPLATES},
    "smollm2, one turn": ("smollm2", TURNS[1:2], {"add_generation_prompt": False}),
    "qwen2.5, tools": ("qwen2.5", TURNS[1:], {"tools": TOOLS}),
    "qwen3, no thought": ("qwen3", TURNS, {"enable_thinking": False}),
    "qwen3, thoughts": ("qwen3", THOUGHTS, {"add_generation_prompt": False}),
    "gemma3, a picture": ("gemma3", PICTURE, {}),
    "mistral, one turn": ("mistral", TURNS[1:2], {}),
    "features, thoughts": ("features", THOUGHTS, {"pad_token": "<pad>"}),
}

WANTED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is <this>? <|im_end|>\n<|im_start|>assistant\n<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431 <|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n",
    "smollm2": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is <this>? <|im_end|>\n<|im_start|>assistant\n<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431 <|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\n What is <this>? </s>\n<|assistant|>\n<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431 </s>\n<|user|>\nAnd now?</s>\n<|assistant|>\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is <this>?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd now?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen2.5": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is <this>? <|im_end|>\n<|im_start|>assistant\n<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431 <|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is <this>? <|im_end|>\n<|im_start|>assistant\nA cat\u2019s \U0001f431 <|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n",
    "gemma3": "<s><start_of_turn>user\nBe brief.\n\nWhat is <this>?<end_of_turn>\n<start_of_turn>model\n<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431<end_of_turn>\n<start_of_turn>user\nAnd now?<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "<s>[INST] Be brief.\n\n What is <this>?  [/INST] <think>\nHm\n</think>\n\nA cat\u2019s \U0001f431</s>[INST] And now? [/INST]",
    "features": '" What is <this>? "|{\n  "role": "user",\n  "content": " What is <this>? "\n}\n"<think>\\nHm\\n</think>\\n\\nA cat\u2019s \U0001f431 "|{\n  "role": "assistant",\n  "content": "<think>\\nHm\\n</think>\\n\\nA cat\u2019s \U0001f431 "\n}\n"And now?"|{\n  "role": "user",\n  "content": "And now?"\n}\nLIST!<INT> system, user, assistant, user\ncontent=Be brief.;role=system;2 {\'a\': 1, \'b\': [1.5, None]} \n<b>&lt;i&gt; 4 [0, 1, 2] True True\ntrue  False',
    "smollm2, one turn": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n What is <this>? <|im_end|>\n",
    "qwen2.5, tools": '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n# Tools\n\n<tools>\n{"type": "function", "function": {"name": "look", "description": "Looks at \xe9 & <b>."}}\n</tools><|im_end|>\n<|im_start|>user\n What is <this>? <|im_end|>\n<|im_start|>assistant\n<think>\nHm\n</think>\n\nA cat\u2019s \U0001f431 <|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n',
    "qwen3, no thought": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is <this>? <|im_end|>\n<|im_start|>assistant\nA cat\u2019s \U0001f431 <|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen3, thoughts": "<|im_start|>user\n What is <this>? <|im_end|>\n<|im_start|>assistant\n<think>\nFur\n</think>\n\nA cat<|im_end|>\n",
    "gemma3, a picture": "<s><start_of_turn>user\nLook.\n\n<start_of_image>What?<end_of_turn>\n<start_of_turn>model\n",
    "mistral, one turn": "<s>[INST]  What is <this>?  [/INST]",
    "features, thoughts": '" What is <this>? "|{\n  "role": "user",\n  "content": " What is <this>? "\n}\n"A cat"|{\n  "thinking": "Fur",\n  "role": "assistant",\n  "content": "A cat",\n  "reasoning": "Fur",\n  "reasoning_content": "Fur"\n}\nLIST!<INT> user, assistant\ncontent= What is <this>? ;role=user;1 {\'a\': 1, \'b\': [1.5, None]} \n<b>&lt;i&gt; 4 [0, 1, 2] True True\ntrue Fur True',
}


@pytest.mark.parametrize("case", list(CASES))
def test_the_text_is_that_of_transformers(case):
    template, messages, options = CASES[case]
    assert rendered(TEMPLATES[template], messages, tokens=TOKENS, **options) == WANTED[case]


@pytest.mark.oracle
@pytest.mark.parametrize("case", list(CASES))
def test_transformers_still_writes_these_texts(case):
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    template, messages, options = CASES[case]
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **TOKENS)
    options = {"add_generation_prompt": True, **options}
    text = tokenizer.apply_chat_template(messages, chat_template=TEMPLATES[template], tokenize=False, **options)
    assert text == WANTED[case] == rendered(TEMPLATES[template], messages, tokens=TOKENS, **options)


def test_the_messages_of_the_caller_stay_as_they_are():
    messages = [{"role": "user", "content": None, "reasoning": "x"}]
    rendered("{{ messages }}", messages)
    assert messages == [{"role": "user", "content": None, "reasoning": "x"}]


def test_the_time_is_the_local_time():
    assert rendered("{{ strftime_now('%Y') }}", []) in {str(time.localtime().tm_year + more) for more in (-1, 0, 1)}


def test_a_long_conversation_is_within_the_limits():
    messages = [{"role": role, "content": "word " * 40} for role in ("user", "assistant")] * 2_000
    assert len(rendered(TEMPLATES["qwen3"], messages)) > 800_000
    picture = {"type": "image_url", "image_url": "data:" + "A" * 5_000_000}
    text = rendered(TEMPLATES["gemma3"], [{"role": "user", "content": [picture, {"type": "text", "text": "Hi"}]}])
    assert text == "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"


def test_it_works_in_threads():
    texts = []
    work = threading.Thread(target=lambda: texts.append(rendered(TEMPLATES["chatml"], TURNS)))
    work.start()
    work.join()
    assert texts == [WANTED["chatml"]]


def test_jinja_may_be_missing(monkeypatch):
    monkeypatch.setattr(_templates, "OLD", True)
    with pytest.raises(ImportError, match=r'pip install "vtx_keras\[llm\]"'):
        rendered("", [])


def test_the_module_is_imported_without_jinja():
    code = "import sys; sys.modules['jinja2'] = None; from vtx_keras.inputs import _templates; assert _templates.OLD"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


# --- what a stranger may write

GROW = "{% set n = namespace(x=['a']) %}{% for i in range(99) %}{% set n.x = "
LONG = "{% set a = 'a' * 900000 %}"
TURN = "{% for i in range(100000) %}"
ATTACKS = {  # what the error says
    "above|too much work|too many calls|an output of|is refused here|too long ones": [
        TURN * 2 + "{% endfor %}{% endfor %}",
        TURN + "{% for x in range(100000) if false %}{% endfor %}{% endfor %}",
        "{% for a in [range(100000)] * 99 recursive %}{% if a is iterable %}{{ loop(a) }}{% endif %}{% endfor %}",
        TURN + "{% set x = range(100000) | map('string') | list %}{% endfor %}",
        TURN + "{% set x = range(100000) | select | list %}{% endfor %}",
        TURN + "{% set x = [[range(100000)]] | map('map', 'list') | map('list') | list %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
        "{{ 'a' * 999999999 }}",
        "{{ 999999999 * ['a'] }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% set n = namespace(x=9) %}" + TURN + "{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'a' | indent(999999999) }}",
        "{{ ('a\n' * 9000) | indent('b' * 9000) }}",
        "{{ ('a' * 9000).replace('a', 'b' * 9000) }}",
        "{{ ('a' * 9000) | replace('', 'b' * 9000) }}",
        "{{ range(9000) | join('a' * 9000) }}",
        "{{ ('a' * 9000).join('a' * 9000) }}",
        LONG + "{{ a.split('a') | join(a) }}",
        "{{ [1] | tojson(indent=999999999) }}",
        "{{ [1] * 9000 | tojson(separators=('a' * 90000, '')) }}",
        GROW + "n.x[0] ~ n.x %}{% endfor %}" + "{{ n.x * 999999 }}",
        GROW + "n.x + n.x %}{% endfor %}",
        GROW + "[n.x, n.x] %}{% endfor %}{{ n.x }}",
        GROW + "{'a': n.x, 'b': n.x} %}{% endfor %}{{ n.x | tojson }}",
        GROW + "dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x | string }}",
        "{% macro m(i) %}{{ m([varargs], varargs, varargs) }}{% endmacro %}{{ m(1, 2) }}",
        "{% set n = namespace(x=()) %}" + TURN + "{% set n.x = (n.x,) %}{% endfor %}{{ {n.x: 1} }}",
        LONG + "{% set n = namespace() %}" + TURN + "{% set n.n = namespace(p=n.n, d=a ~ i) %}{% endfor %}",
        "{% set x %}" + TURN + "a" * 50_000 + "{% endfor %}{% endset %}",
        "{% macro m() %}" + TURN + "a" * 50_000 + "{% endfor %}{% endmacro %}{{ m() }}",
        TURN + "a" * 50_000 + "{% endfor %}",
        LONG + TURN + "{% set x = a[1:] %}{% endfor %}",
        LONG + "{{ a.strip('b' * 90000 ~ 'a') }}",
        LONG + "{{ a.rfind('b' ~ a[:90000]) }}",
        LONG + TURN + "{% set x = a | title %}{% endfor %}",
        LONG + "{{ " + "~".join("a" * 9000) + " }}",
        "{% set a = [1] * 400000 %}{% set b = [1] * 400000 %}" + "{% set x = a == b %}" * 2000,
        "{% set a = [1] * 400000 %}{% set b = [1] * 400000 %}" + "{% set x = a is eq(b) %}" * 1900,
        "{% set t = (1,) * 400000 %}" + "{% set x = {}[t] %}" * 2000,
        "{{ ('<' * 900000) | e }}",
        "{{ ('1' * 900000) | int(base=2) }}",
    ],
    "not in a chat template": [
        "{% include '/etc/passwd' %}",
        "{% include ['/etc/passwd'] ignore missing %}",
        "{% import 'os' as os %}",
        "{% from 'os' import x %}",
        "{% extends 'a' %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    ],
    "unsafe|undefined|no attribute|No filter|underscore|a call of|not callable|non-namespace|not a mapping|Range too big": [
        "{{ ''.__class__.__mro__ }}",
        "{{ (''| attr('__class__')).x }}",
        "{{ ''['__class__'].x }}",
        "{{ (['a'] | map(attribute='__class__') | first).x }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ self._TemplateReference__context.x }}",
        "{% for i in [1] %}{{ loop._iterable.x }}{% endfor %}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ (['{:999999999}'] | map('attr', 'format') | first)(1) }}",
        "{{ '{}'.format_map({}) }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a'.encode('utf-8') }}",
        "{{ (5).to_bytes(999999999, 'big') }}",
        "{{ [1] | batch(999999999, 0) | list }}",
        "{{ range(0, 2305843009213693951 * 4, 2305843009213693951) | unique | list }}",
        "{{ lipsum(n=999999) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(a=1) }}",
        "{% set n = namespace() %}{% set n.__html__ = 1 %}",
        "{{ namespace(__init__=1) }}",
        "{{ messages[0].image.save('x') }}",
        "{{ dict([(1, 2)]) }}",
        "{{ range(999999) }}",
    ],
    "strftime_now|separators|argument": ["{{ strftime_now('%999999999d') }}", "{{ strftime_now('%Y' * 101) }}"],
    "RecursionError|too many|MemoryError|parenthes": [
        "{{ " + "(" * 29000 + "1" + ")" * 29000 + " }}",
        "{{ " + "not " * 14000 + "1 }}",
        "{{ 1" + "+1" * 29000 + " }}",
        "{{ a" + ".b" * 29000 + " }}",
        "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
        "{% if 1 %}" * 2800 + "{% endif %}" * 2800,
    ],
    "it is no str": ["a" * 60_001, None, ["a"]],
}


@pytest.mark.parametrize(
    ("said", "template"),
    [(said, template) for said, templates in ATTACKS.items() for template in templates],
    ids=lambda value: ascii(value)[:40],
)
def test_a_stranger_s_template_is_stopped(said, template, monkeypatch):
    if "too much work" in said:  # the clock is for what the count lets pass; it must not stop what a rule does
        monkeypatch.setattr(_templates, "SECONDS", 0.05)
    begin = time.thread_time()
    with pytest.raises(BadTemplate, match=f"(?s)chat template .*, line .*({said}).*: expected .*pass another template"):
        rendered(template, [{"role": "user", "content": "Hi", "image": np.zeros(1)}])
    assert time.thread_time() - begin < 2


def test_the_longest_loops_fail_within_a_second():
    begin = time.perf_counter()
    with pytest.raises(BadTemplate, match="too much work"):
        rendered(TURN * 3 + "{% endfor %}" * 3, [])
    assert time.perf_counter() - begin < 1


def test_what_a_template_says_is_the_error():
    with pytest.raises(BadTemplate, match=r"line 2: Conversation roles must alternate user/assistant"):
        rendered("\n{{ raise_exception('Conversation roles must alternate user/assistant') }}", [])
    with pytest.raises(BadTemplate) as caught:
        rendered("{{ raise_exception('a\x1b[2J\u202e' ~ 'b' * 9999) }}", [])
    assert len(str(caught.value)) < 900
    assert str(caught.value).isprintable()


def test_a_namespace_may_hold_itself():
    assert rendered("{% set n = namespace() %}{% set n.n = [n] %}{{ n }}{{ n.n }}", []) == "<Namespace>[<Namespace>]"
