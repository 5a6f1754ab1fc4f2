# Where `docker push` puts the images that are built here.
resource "aws_ecr_repository" "own" {
  for_each             = var.images
  name                 = "${var.cluster_name}/${each.key}"
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.lab.arn
  }
}

variable "images" {
  description = "The images that are built here and have no public registry."
  type        = set(string)
  default     = ["streamlab", "jmx-exporter", "spark-kafka", "elasticsearch-python", "uplot"]
}
