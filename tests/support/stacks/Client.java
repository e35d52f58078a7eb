// Calls the methods of tests/support/wired.py by grpc-java: java Client.java HOST:PORT. Prints what
// came of each case as one line of JSON; tests/serving/server/wire/test_stacks.py says what must.

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

class Client {
  static final int PATIENCE_SECONDS = 20;
  static final Random random = new Random();
  static Channel channel;

  static class Bytes implements MethodDescriptor.Marshaller<byte[]> {
    public InputStream stream(byte[] value) {
      return new ByteArrayInputStream(value);
    }

    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }

  static ClientCall<byte[], byte[]> call(String name, MethodDescriptor.MethodType type, long ms) {
    MethodDescriptor<byte[], byte[]> method =
        MethodDescriptor.<byte[], byte[]>newBuilder(new Bytes(), new Bytes())
            .setType(type)
            .setFullMethodName("tests.Interop/" + name)
            .build();
    return channel.newCall(
        method, CallOptions.DEFAULT.withDeadlineAfter(ms, TimeUnit.MILLISECONDS));
  }

  static ClientCall<byte[], byte[]> unaryCall(String name, long ms) {
    return call(name, MethodDescriptor.MethodType.UNARY, ms);
  }

  static byte[] unary(String name, byte[] message) {
    return ClientCalls.blockingUnaryCall(unaryCall(name, PATIENCE_SECONDS * 1000), message);
  }

  static byte[] randomBytes(int size) {
    byte[] message = new byte[size];
    random.nextBytes(message);
    return message;
  }

  static boolean echoes(int size) {
    byte[] message = randomBytes(size);
    return Arrays.equals(message, unary("echo", message));
  }

  static boolean many() throws Exception {
    List<byte[]> sent = new ArrayList<>();
    List<Future<byte[]>> answers = new ArrayList<>();
    for (int number = 0; number < 100; number++) {
      sent.add(randomBytes(1 + 997 * number));
      answers.add(
          ClientCalls.futureUnaryCall(unaryCall("echo", PATIENCE_SECONDS * 1000), sent.get(number)));
    }
    boolean all = true;
    for (int number = 0; number < 100; number++) {
      all &= Arrays.equals(sent.get(number), answers.get(number).get());
    }
    return all;
  }

  static Status status(Callable<byte[]> call) throws Exception {
    try {
      call.call();
      return Status.OK;
    } catch (StatusRuntimeException error) {
      return error.getStatus();
    }
  }

  static class Conversation implements StreamObserver<byte[]> {
    final LinkedBlockingQueue<byte[]> answers = new LinkedBlockingQueue<>();
    final CompletableFuture<Integer> ended = new CompletableFuture<>();
    final ClientCall<byte[], byte[]> call =
        call("converse", MethodDescriptor.MethodType.BIDI_STREAMING, PATIENCE_SECONDS * 1000);
    final StreamObserver<byte[]> stream = ClientCalls.asyncBidiStreamingCall(call, this);

    public void onNext(byte[] answer) {
      answers.add(answer);
    }

    public void onError(Throwable error) {
      ended.complete(Status.fromThrowable(error).getCode().value());
    }

    public void onCompleted() {
      ended.complete(0);
    }

    byte[] answer() throws InterruptedException {
      return answers.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }
  }

  static int pingPong() throws Exception {
    Conversation one = new Conversation();
    for (int size : new int[] {27182, 8, 1828, 45904}) {
      byte[] message = randomBytes(size);
      one.stream.onNext(message);
      if (!Arrays.equals(message, one.answer())) {
        return -1;
      }
    }
    one.stream.onCompleted();
    return one.ended.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
  }

  static int cancelled() throws Exception {
    Conversation one = new Conversation();
    one.stream.onNext(new byte[1]);
    one.answer();
    one.call.cancel("enough", null);
    return one.ended.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
  }

  static String headers(String key) {
    return new String(unary("headers", key.getBytes(StandardCharsets.UTF_8)), StandardCharsets.UTF_8);
  }

  public static void main(String[] arguments) throws Exception {
    ManagedChannel managed =
        ManagedChannelBuilder.forTarget(arguments[0])
            .usePlaintext()
            .maxInboundMessageSize(Integer.MAX_VALUE)
            .build();
    Metadata metadata = new Metadata();
    metadata.put(Metadata.Key.of("x-one", Metadata.ASCII_STRING_MARSHALLER), "a b");
    metadata.put(
        Metadata.Key.of("x-one-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {0, -1, 10});
    channel =
        io.grpc.ClientInterceptors.intercept(
            managed, MetadataUtils.newAttachHeadersInterceptor(metadata));
    byte[] failure = "[\"ABORTED\", \"100 % \u263a\", \"\"]".getBytes(StandardCharsets.UTF_8);
    List<String> found = new ArrayList<>();
    found.add("\"empty\": " + unary("empty", new byte[0]).length);
    found.add("\"small\": " + echoes(10));
    found.add("\"large\": " + echoes(5 << 20));
    found.add("\"many\": " + many());
    found.add("\"text\": " + headers("x-one"));
    found.add("\"bytes\": " + headers("x-one-bin"));
    Status failed = status(() -> unary("fail", failure));
    found.add(
        String.format("\"failed\": [%d, \"%s\"]", failed.getCode().value(), failed.getDescription()));
    found.add("\"unknown\": " + status(() -> unary("missing", new byte[1])).getCode().value());
    Status late =
        status(() -> ClientCalls.blockingUnaryCall(unaryCall("sleep", 100), new byte[1]));
    found.add("\"late\": " + late.getCode().value());
    found.add("\"pingPong\": " + pingPong());
    found.add("\"cancelled\": " + cancelled());
    byte[] line = ("{" + String.join(", ", found) + "}\n").getBytes(StandardCharsets.UTF_8);
    System.out.write(line);
    System.out.flush();
    managed.shutdownNow().awaitTermination(PATIENCE_SECONDS, TimeUnit.SECONDS);
  }
}
