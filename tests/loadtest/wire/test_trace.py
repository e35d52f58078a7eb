"""Requests with a span of their own, over every wire."""

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from loadtest.payloads.content import Payload, random_tensors
from loadtest.results import OK
from loadtest.wire import grpc_client, rest_client
from loadtest.wire.grpc_client import StreamClient, UnaryClient
from loadtest.wire.messages import Request, infer_request, rest_request, vision_request
from loadtest.wire.rest_client import RestClient
from tests.support.in_process import InProcess
from tests.support.traced import SAMPLED, SPAN, TRACE, traced
