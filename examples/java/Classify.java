import com.google.protobuf.ByteString;
import convserve.vision.v1.Vision;
import convserve.vision.v1.VisionServiceGrpc;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** Classifies image files with the stub that protoc makes of protos/vision.proto. */
public final class Classify {
  private static final String USAGE =
      "usage: java Classify [--url HOST:PORT] MODEL IMAGE...\n"
          + "Classifies JPEG, PNG, WebP and BMP files. --url: address of gRPC [127.0.0.1:8001]";
  private static final int TIMEOUT_SECONDS = 10;
  private static final int TOP_K = 3;

  private Classify() {}

  public static void main(String[] given) throws InterruptedException {
    List<String> arguments = Arrays.asList(given);
    String url = "127.0.0.1:8001";
    if (arguments.contains("--help")) {
      System.out.println(USAGE);
      return;
    }
    if (arguments.size() > 1 && arguments.get(0).equals("--url")) {
      url = arguments.get(1);
      arguments = arguments.subList(2, arguments.size());
    }
    if (arguments.size() < 2) {
      System.err.println(USAGE);
      System.exit(2);
    }
    ManagedChannel channel = ManagedChannelBuilder.forTarget(url).usePlaintext().build();
    boolean allAnswered = true;
    for (String file : arguments.subList(1, arguments.size())) {
      allAnswered &= classify(channel, arguments.get(0), Path.of(file));
    }
    channel.shutdownNow().awaitTermination(1, TimeUnit.SECONDS);
    System.exit(allAnswered ? 0 : 1);
  }

  private static boolean classify(ManagedChannel channel, String model, Path file) {
    try {
      Vision.Image image =
          Vision.Image.newBuilder()
              .setEncoded(ByteString.copyFrom(Files.readAllBytes(file)))
              .build();
      Vision.ClassifyRequest request =
          Vision.ClassifyRequest.newBuilder()
              .setModel(model)
              .addImages(image)
              .setTopK(TOP_K)
              .build();
      // The deadline travels with the call: the server refuses at once what it cannot do by then.
      Vision.ClassifyResponse response =
          VisionServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(TIMEOUT_SECONDS, TimeUnit.SECONDS)
              .classify(request);
      String labels =
          response.getResults(0).getLabelsList().stream()
              .map(label -> String.format("%s %.1f%%", label.getName(), 100 * label.getScore()))
              .collect(Collectors.joining(", "));
      System.out.printf("%s: %s  (%s)%n", file, labels, response.getServed().getVariant());
      return true;
    } catch (StatusRuntimeException failure) {
      boolean absent = failure.getStatus().getCode() == Status.Code.UNAVAILABLE;
      String hint = absent ? " (is the server running, and --url right?)" : "";
      System.err.printf("%s: %s%s%n", file, failure.getMessage(), hint);
    } catch (IOException error) {
      System.err.printf("%s: cannot be read%n", file);
    }
    return false;
  }
}
